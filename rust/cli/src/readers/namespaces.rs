// SPDX-License-Identifier: GPL-2.0

//! The names of network namespaces.

use crate::output::text_of;
use nix::sys::statfs;
use std::{
    collections::{btree_map::Entry, BTreeMap, HashMap},
    fs::{self, File},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::Path,
};

/// Network namespaces' names by their inode numbers.
#[derive(Debug, Default)]
pub struct Namespaces(HashMap<u64, String>);

impl Namespaces {
    /// Finds the namespaces that have a name in /run/netns. The namespace of process 1 is "init".
    pub fn find() -> Self {
        Self::find_in(Path::new("/proc/1/ns/net"), Path::new("/run/netns"))
    }

    fn find_in(init: &Path, names: &Path) -> Self {
        let mut found = HashMap::new();
        if let Ok(file) = fs::metadata(init) {
            found.insert(file.ino(), "init".to_owned());
        }
        for entry in fs::read_dir(names).into_iter().flatten().flatten() {
            if let Ok(file) = fs::metadata(entry.path()) {
                found.insert(
                    file.ino(),
                    text_of(entry.file_name().as_bytes()).into_owned(),
                );
            }
        }
        Self(found)
    }

    /// Returns the name of the namespace with the inode number.
    pub fn name(&self, inode: u64) -> Option<&str> {
        self.0.get(&inode).map(String::as_str)
    }
}

/// Returns all network namespaces that have a name or a process, by their inode numbers, each opened.
pub fn find_all() -> BTreeMap<u64, File> {
    let named = fs::read_dir("/run/netns")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = processes.filter(|entry| {
        entry
            .file_name()
            .as_bytes()
            .first()
            .is_some_and(u8::is_ascii_digit)
    });
    let mut found = BTreeMap::new();
    for path in named.chain(processes.map(|entry| entry.path().join("ns/net"))) {
        // A process may have ended, and a name may belong to no namespace yet.
        let Ok(inode) = fs::metadata(&path).map(|file| file.ino()) else {
            continue;
        };
        if let Entry::Vacant(place) = found.entry(inode) {
            if let Some(file) = File::open(&path).ok().filter(is_namespace) {
                place.insert(file);
            }
        }
    }
    found
}

/// Returns the inode number of this thread's network namespace.
pub fn own() -> Option<u64> {
    fs::metadata("/proc/thread-self/ns/net")
        .map(|file| file.ino())
        .ok()
}

/// Returns whether the file is a namespace, and not the plain file that is there before `ip netns add` mounts one.
fn is_namespace(file: &File) -> bool {
    statfs::fstatfs(file).is_ok_and(|status| status.filesystem_type() == statfs::NSFS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn names_by_inode() -> io::Result<()> {
        let folder =
            std::env::temp_dir().join(format!("rustmasq-namespaces-{}", std::process::id()));
        fs::create_dir(&folder)?;
        fs::write(folder.join("router"), "")?;
        let inode = fs::metadata(folder.join("router"))?.ino();
        let init = fs::metadata("/proc/self/ns/net")?.ino();
        let found = Namespaces::find_in(Path::new("/proc/self/ns/net"), &folder);
        fs::remove_dir_all(&folder)?;
        assert_eq!(found.name(inode), Some("router"));
        assert_eq!(found.name(init), Some("init"));
        assert_eq!(found.name(0), None);
        assert_eq!(Namespaces::find_in(&folder, &folder).0.len(), 0);
        Ok(())
    }
}
