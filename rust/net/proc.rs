// SPDX-License-Identifier: GPL-2.0

//! Files that each network namespace has in `/proc/net`.
//!
//! C headers: [`include/linux/proc_fs.h`](srctree/include/linux/proc_fs.h),
//! [`include/linux/seq_file_net.h`](srctree/include/linux/seq_file_net.h)

use super::{
    namespace::Net,
    pernet::{
        Operations,
        OperationsRegistration, //
    }, //
};
use crate::bindings;
use core::marker::PhantomData;
use kernel::{
    prelude::*,
    seq_file::SeqFile, //
};

/// The content of a file.
pub(crate) trait NetFileContent: Sized + 'static {
    /// The file's name in `/proc/net`.
    const NAME: &'static CStr;
    /// The file's permissions.
    const MODE: u16;

    /// Returns the first position from `position` on at which the file has a piece, if there is one. Process context.
    ///
    /// A file is printed piece by piece, as it is read, so that it needs little memory however long it is. Without this
    /// function it is one piece.
    fn position_from(_net: &Net, position: u64) -> Option<u64> {
        (position == 0).then_some(0)
    }

    /// Prints the piece at a position for a namespace. Called again, with a larger buffer, if it was too long. Process
    /// context.
    fn print(net: &Net, file: &SeqFile, position: u64);
}

/// A file in `/proc/net`, for statics. A kernel without procfs has none.
pub(crate) struct NetFile<T> {
    operations: Operations,
    content: PhantomData<fn() -> T>,
}

impl<T: NetFileContent> NetFile<T> {
    /// The functions that print the file.
    const PRINTING: &'static bindings::seq_operations = &bindings::seq_operations {
        start: Some(Self::start),
        stop: Some(Self::stop),
        next: Some(Self::next),
        show: Some(Self::show),
    };

    /// Returns a static that is not registered.
    pub(crate) const fn new() -> Self {
        Self {
            operations: Operations::new(),
            content: PhantomData,
        }
    }

    /// Gives each namespace the file, until the registration is dropped.
    ///
    /// The data of a namespace that the file reads must be registered before, as by
    /// [`PerNet::register`](super::pernet::PerNet::register): the kernel lets a namespace's parts go in the reverse
    /// order. Errors: ENOMEM; EBUSY if it is registered already. Process context.
    pub(crate) fn register(&'static self) -> Result<Registration<T>> {
        let operations = bindings::pernet_operations {
            init: Some(Self::init),
            exit: Some(Self::exit),
            ..pin_init::zeroed()
        };
        // SAFETY: The callbacks make and remove a file of the namespace that they are called for, and need no more.
        let registered = unsafe { self.operations.register(operations) }?;
        Ok(Registration {
            _operations: registered,
            content: PhantomData,
        })
    }

    /// Makes the file of a new namespace.
    ///
    /// # Safety
    ///
    /// Called by the kernel for a new namespace, or at registration.
    unsafe extern "C" fn init(net: *mut bindings::net) -> c_int {
        // SAFETY: The namespace is valid, and its folder in /proc was made before any of its other parts
        // (`proc_net_ns_init`) and goes after them. Name and functions are static. The functions keep to the rules of
        // seq_file: the position grows with each piece, and they return no error pointer. Process context.
        let file = unsafe {
            bindings::rustmasq_proc_create_net(
                T::NAME.as_char_ptr(),
                T::MODE,
                (*net).proc_net,
                Self::PRINTING,
            )
        };
        if cfg!(CONFIG_PROC_FS = "y") && file.is_null() {
            return ENOMEM.to_errno();
        }
        0
    }

    /// Removes the file. Waits for readers, and closes it for those who have it open.
    ///
    /// # Safety
    ///
    /// Called by the kernel for a namespace after `init`: when it goes, or when the registration is dropped.
    unsafe extern "C" fn exit(net: *mut bindings::net) {
        // SAFETY: `init` made the file in this folder, which is still there. Process context, and no lock is held that
        // a reader needs: `print` gets none.
        unsafe { bindings::rustmasq_remove_proc_entry(T::NAME.as_char_ptr(), (*net).proc_net) };
    }

    /// Goes to the first piece from a position on. Returns null at the end, and else a token for the position: the number
    /// behind it, as a pointer to nothing.
    ///
    /// # Safety
    ///
    /// Called by the kernel when somebody reads the file, which `seq_open_net` opened; `position` is valid for the call.
    unsafe extern "C" fn start(
        seq: *mut bindings::seq_file,
        position: *mut bindings::loff_t,
    ) -> *mut c_void {
        // SAFETY: The caller guarantees a valid file. While it is open, it holds a reference to its namespace.
        let net = unsafe { Net::from_raw(bindings::rustmasq_seq_file_net(seq)) };
        // SAFETY: The caller guarantees a valid position.
        let position = unsafe { &mut *position };
        let found = u64::try_from(*position)
            .ok()
            .and_then(|from| T::position_from(net, from));
        let place = found.and_then(|found| Some((found, bindings::loff_t::try_from(found).ok()?)));
        let Some((found, place)) = place else {
            return core::ptr::null_mut();
        };
        *position = place;
        // CAST: A pointer has 64 bits.
        core::ptr::without_provenance_mut(found as usize + 1)
    }

    /// Goes to the next piece.
    ///
    /// # Safety
    ///
    /// As of [`start`](Self::start), which was called before.
    unsafe extern "C" fn next(
        seq: *mut bindings::seq_file,
        _: *mut c_void,
        position: *mut bindings::loff_t,
    ) -> *mut c_void {
        // SAFETY: The caller guarantees a valid position, which is for this call alone.
        unsafe { *position = (*position).saturating_add(1) };
        // SAFETY: The caller guarantees that file and position are as `start` needs them.
        unsafe { Self::start(seq, position) }
    }

    /// Ends a read. Nothing is held from one piece to the next.
    extern "C" fn stop(_: *mut bindings::seq_file, _: *mut c_void) {}

    /// Prints a piece.
    ///
    /// # Safety
    ///
    /// As of [`start`](Self::start), which returned the token.
    unsafe extern "C" fn show(seq: *mut bindings::seq_file, token: *mut c_void) -> c_int {
        // SAFETY: The sequence file is valid for the call, and whoever reads it has locked it. An open file holds a
        // reference to its namespace.
        let (net, file) = unsafe {
            (
                Net::from_raw(bindings::rustmasq_seq_file_net(seq)),
                SeqFile::from_raw(seq),
            )
        };
        // CAST: A pointer has 64 bits.
        T::print(net, file, (token.addr() as u64).saturating_sub(1));
        0
    }
}

/// The registration of a file.
pub(crate) struct Registration<T: NetFileContent> {
    _operations: OperationsRegistration,
    content: PhantomData<T>,
}
