// SPDX-License-Identifier: GPL-2.0

//! The trace instance of a flow viewer, so that several can run without taking lines from each other.

use crate::{output, Failure};
use nix::fcntl::{Flock, FlockArg};
use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
};

const EVENT: &str = "events/rustmasq/flow_confirm/enable";
const PREFIX: &[u8] = b"rustmasq-watch-";
const NOT_MOUNTED: &str = "tracefs is not mounted: mount -t tracefs tracefs /sys/kernel/tracing";

/// Returns the folder where tracefs is mounted, by the content of /proc/self/mounts.
fn find_tracefs(mounts: &[u8]) -> Option<PathBuf> {
    let find = |wanted: &[u8]| {
        mounts.split(|byte| *byte == b'\n').find_map(|line| {
            let mut words = line.split(|byte| *byte == b' ').skip(1);
            let path = words.next()?;
            (words.next()? == wanted).then(|| unescape(path))
        })
    };
    find(b"tracefs").or_else(|| find(b"debugfs").map(|path| path.join("tracing")))
}

/// Decodes the octal escapes by which the kernel writes blanks in a path.
fn unescape(path: &[u8]) -> PathBuf {
    let mut plain = Vec::new();
    let mut rest = path;
    while let Some((first, others)) = rest.split_first() {
        let code = others.get(..3).filter(|_| *first == b'\\');
        let code = code.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = &others[3..];
            }
            None => {
                plain.push(*first);
                rest = others;
            }
        }
    }
    std::ffi::OsString::from_vec(plain).into()
}

/// Returns whether the name is that of a flow viewer's instance.
fn is_viewers(name: &OsStr) -> bool {
    let number = name.as_bytes().strip_prefix(PREFIX);
    number.is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit))
}

/// A trace instance with the event flow_confirm turned on. It is removed when it is dropped.
pub struct Instance {
    // The kernel refuses to remove an instance whose pipe is open, so the pipe is closed first.
    pipe: Option<File>,
    path: PathBuf,
}

impl Instance {
    /// Makes the instance, and turns the event on in it.
    pub fn new() -> Result<Self, Failure> {
        let mounts = fs::read("/proc/self/mounts")
            .map_err(|error| Failure::io("/proc/self/mounts", &error))?;
        let folder = find_tracefs(&mounts)
            .ok_or_else(|| Failure::new(NOT_MOUNTED))?
            .join("instances");
        let instance = Self::make(&folder)?;
        instance.enable()?;
        Ok(instance)
    }

    fn make(folder: &Path) -> Result<Self, Failure> {
        // One flow viewer starts at a time: `remove_leftovers` must not see an instance whose pipe is not open yet.
        let lock = File::open(folder).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Failure::new(NOT_MOUNTED),
            _ => Failure::io(folder.display(), &error),
        })?;
        let _lock = Flock::lock(lock, FlockArg::LockExclusive)
            .map_err(|(_, error)| Failure::io(folder.display(), &io::Error::from(error)))?;
        remove_leftovers(folder);
        let mut name = PREFIX.to_vec();
        name.extend(std::process::id().to_string().bytes());
        let path = folder.join(OsStr::from_bytes(&name));
        fs::create_dir(&path).map_err(|error| Failure::io(path.display(), &error))?;
        let mut instance = Self { pipe: None, path };
        let pipe = instance.path.join("trace_pipe");
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
            .open(&pipe);
        instance.pipe = Some(opened.map_err(|error| Failure::io(pipe.display(), &error))?);
        Ok(instance)
    }

    fn enable(&self) -> Result<(), Failure> {
        self.write("trace_clock", "mono")
            .map_err(|error| self.failure("trace_clock", &error))?;
        // 15,000 flows fit into this buffer, which each CPU has.
        self.write("buffer_size_kb", "4096")
            .map_err(|error| self.failure("buffer_size_kb", &error))?;
        self.write(EVENT, "1").map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Failure::new(
                "the event rustmasq:flow_confirm does not exist: load the module (modprobe rustmasq)",
            ),
            _ => Failure::new(format!(
                "the event rustmasq:flow_confirm cannot be turned on: {}",
                output::reason(&error)
            )),
        })
    }

    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        // No file is made if there is none: `fs::write` would ask for that.
        io::Write::write_all(
            &mut OpenOptions::new().write(true).open(self.path.join(name))?,
            text.as_bytes(),
        )
    }

    fn failure(&self, name: &str, error: &io::Error) -> Failure {
        Failure::io(self.path.join(name).display(), error)
    }

    /// Returns whether the event is on. It goes off when the module is removed.
    pub fn is_enabled(&self) -> bool {
        fs::read(self.path.join(EVENT)).is_ok_and(|state| state.starts_with(b"1"))
    }

    /// Returns the pipe, from which lines are read without waiting.
    pub fn pipe(&self) -> Result<&File, Failure> {
        self.pipe
            .as_ref()
            .ok_or_else(|| Failure::new("the trace pipe is closed"))
    }

    /// Appends what the pipe holds, up to about `limit` bytes.
    pub fn read(&self, to: &mut Vec<u8>, limit: usize) -> Result<(), Failure> {
        let mut pipe = self.pipe()?;
        let mut chunk = [0; 1 << 14];
        while to.len() < limit {
            match pipe.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => to.extend_from_slice(&chunk[..count]),
                // The buffers are empty, perhaps because a module was removed.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(self.failure("trace_pipe", &error)),
            }
        }
        Ok(())
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.pipe = None;
        if let Err(error) = fs::remove_dir(&self.path) {
            output::say(&Failure::io(self.path.display(), &error).message);
        }
    }
}

/// Removes the instances of flow viewers that were killed. The kernel refuses to remove one whose pipe is open.
fn remove_leftovers(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if is_viewers(&entry.file_name()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tracefs_is_preferred_to_debugfs() {
        let mounts = b"debugfs /sys/kernel/debug debugfs rw 0 0\ntracefs /sys/kernel/tracing tracefs rw 0 0\n\
            tracefs /second tracefs rw 0 0\n";
        assert_eq!(find_tracefs(mounts), Some("/sys/kernel/tracing".into()));
        assert_eq!(
            find_tracefs(&mounts[..40]),
            Some("/sys/kernel/debug/tracing".into())
        );
    }

    #[test]
    fn without_either_there_is_no_tracefs() {
        for mounts in [
            &b""[..],
            b"\n\n",
            b"tracefs",
            b"tracefs /x",
            b"tracefs /x tracefsx rw",
            b"a tracefs b c",
        ] {
            assert_eq!(find_tracefs(mounts), None);
        }
    }

    #[test]
    fn blanks_in_a_path_are_octal_escapes() {
        let mounts = b"x /a\\040b\\011c\\134d tracefs rw 0 0";
        assert_eq!(find_tracefs(mounts), Some("/a b\tc\\d".into()));
        assert_eq!(unescape(b"a\\04"), Path::new("a\\04"));
        assert_eq!(unescape(b"a\\999\\777"), Path::new("a\\999\\777"));
    }

    #[test]
    fn the_names_of_instances() {
        assert!(is_viewers(OsStr::new("rustmasq-watch-1")));
        for name in [
            "rustmasq-watch-",
            "rustmasq-watch-x",
            "rustmasq-watch-1x",
            "other",
            "rustmasq-watch",
        ] {
            assert!(!is_viewers(OsStr::new(name)));
        }
    }
}
