// SPDX-License-Identifier: GPL-2.0

//! The border to libxtables: the only file with `unsafe`.
//!
//! C header: `xtables.h`
//!
//! A callback converts what it is given, calls plain Rust and translates the outcome. Text goes out
//! through C's stdio, because iptables' own text does: Rust's stdout has a buffer of its own, and
//! the two would mix.

use std::cell::UnsafeCell;
use std::ffi::{
    c_char,
    c_int,
    c_uint,
    c_void,
    CStr, //
};
use std::mem::{
    offset_of,
    size_of,
    MaybeUninit, //
};
use std::ptr;

use crate::bindings::{
    self,
    ip6t_entry,
    ipt_entry,
    option,
    xt_entry_target,
    xt_rustmasq_info,
    xtables_target, //
};
use crate::options::{
    GivenOption,
    Options,
    Refusal, //
};
use crate::protocol::{
    Family,
    RuleProtocol, //
};

const NAME: &CStr = c"RUSTMASQ";

// What the options are called between `EXTRA_OPTS` and `parse`.
const O_TO_PORTS: c_int = 1;
const O_RANDOM: c_int = 2;
const O_RANDOM_FULLY: c_int = 3;

// The kernel compiles the same header; here is what its comment promises.
const _: () = assert!(size_of::<xt_rustmasq_info>() == 48);
const _: () = assert!(offset_of!(xt_rustmasq_info, kernel_private) == 16);

/// One target for each family.
const TARGET_COUNT: usize = 2;

/// The registered targets. libxtables links them into its own list and writes to them.
struct Targets(UnsafeCell<[xtables_target; TARGET_COUNT]>);

// SAFETY: Rust touches the targets once, in `register`, and there only to take their address. From
// then on they belong to libxtables, which has no threads.
unsafe impl Sync for Targets {}

static TARGETS: Targets = Targets(UnsafeCell::new([
    target::<ipt_entry>(),
    target::<ip6t_entry>(),
]));

/// The table of options for getopt, which ends with an empty one.
struct OptionTable([option; 4]);

// SAFETY: Nobody writes to the table, and what its pointers point to is constant: string literals.
unsafe impl Sync for OptionTable {}

static EXTRA_OPTS: OptionTable = OptionTable([
    getopt_option(c"to-ports", bindings::required_argument, O_TO_PORTS),
    getopt_option(c"random", bindings::no_argument, O_RANDOM),
    getopt_option(c"random-fully", bindings::no_argument, O_RANDOM_FULLY),
    option {
        name: ptr::null(),
        has_arg: 0,
        flag: ptr::null_mut(),
        val: 0,
    },
]);

const fn getopt_option(name: &'static CStr, has_arg: c_uint, val: c_int) -> option {
    option {
        name: name.as_ptr(),
        // CAST: 0 or 1.
        has_arg: has_arg as c_int,
        flag: ptr::null_mut(),
        val,
    }
}

/// Revision 0 of the target. There is no `xlate`: nftables has no expression for it, so
/// `iptables-translate` prints such a rule as a comment.
const fn target<E: Entry>() -> xtables_target {
    // SAFETY: `xtables_target` is made of integers, pointers and optional function pointers, and
    // all of them may be zero.
    let empty: xtables_target = unsafe { MaybeUninit::zeroed().assume_init() };
    xtables_target {
        version: bindings::XTABLES_VERSION.as_ptr(),
        name: NAME.as_ptr(),
        family: E::NFPROTO,
        size: size_of::<xt_rustmasq_info>(),
        userspacesize: offset_of!(xt_rustmasq_info, kernel_private),
        help: Some(help::<E>),
        parse: Some(parse::<E>),
        print: Some(print),
        save: Some(save),
        extra_opts: EXTRA_OPTS.0.as_ptr(),
        ..empty
    }
}

/// Registers the targets as soon as the extension is loaded. The unit tests have no iptables
/// around them, so there it is not put where the loader looks.
// SAFETY: The section is an array of pointers to C functions, and this is one. The loader calls it
// with three arguments, and a C function may leave arguments alone.
#[cfg_attr(not(test), unsafe(link_section = ".init_array"))]
#[used]
static REGISTER: extern "C" fn() = register;

extern "C" fn register() {
    // SAFETY: `TARGETS` is as many targets as it says, all filled in. It is static, so it stays
    // where it is while libxtables has it in its list; it may be written to, being an `UnsafeCell`;
    // and nobody else looks at it. iptables has set libxtables up before it loads an extension.
    unsafe {
        bindings::xtables_register_targets(TARGETS.0.get().cast(), TARGET_COUNT as c_uint);
    }
}

/// A rule as iptables itself keeps it, apart from matches and target: one C type per family.
trait Entry {
    const FAMILY: Family;
    const NFPROTO: u16;

    /// Returns what the rule's `-p` said so far.
    fn protocol(&self) -> RuleProtocol;
}

impl Entry for ipt_entry {
    const FAMILY: Family = Family::Ipv4;
    const NFPROTO: u16 = bindings::NFPROTO_IPV4 as u16;

    fn protocol(&self) -> RuleProtocol {
        let inverted = u32::from(self.ip.invflags) & bindings::IPT_INV_PROTO != 0;
        RuleProtocol::new(self.ip.proto, inverted)
    }
}

impl Entry for ip6t_entry {
    const FAMILY: Family = Family::Ipv6;
    const NFPROTO: u16 = bindings::NFPROTO_IPV6 as u16;

    fn protocol(&self) -> RuleProtocol {
        let inverted = u32::from(self.ipv6.invflags) & bindings::IP6T_INV_PROTO != 0;
        RuleProtocol::new(self.ipv6.proto, inverted)
    }
}

extern "C" fn help<E: Entry>() {
    write_stdout(&Options::help_text(E::FAMILY));
}

/// Takes one option from the command line.
///
/// # Safety
///
/// Only for libxtables, with what `xtables.h` says: `entry` points to the rule, an `E`,
/// `target` points to a target of ours, and getopt has just met option `id`.
unsafe extern "C" fn parse<E: Entry>(
    id: c_int,
    _argv: *mut *mut c_char,
    inverted: c_int,
    _flags: *mut c_uint,
    entry: *const c_void,
    target: *mut *mut xt_entry_target,
) -> c_int {
    // SAFETY: libxtables calls the `parse` of the family that iptables runs for, with that family's
    // entry: an `E`. It is plain data, and this read needs no alignment.
    let entry = unsafe { entry.cast::<E>().read_unaligned() };
    // SAFETY: `target` points to libxtables' pointer to the target that is being filled in.
    let target = unsafe { *target };
    // SAFETY: The target is one of ours.
    let options = unsafe { read_options(target) };

    // Nothing that owns memory may be alive in this function when `xtables_error` leaves it for good.
    // SAFETY: This is still the call in which getopt met option `id`.
    match unsafe { parse_option(options, id, inverted != 0, E::FAMILY, entry.protocol()) } {
        Ok(Some(options)) => {
            // SAFETY: The target is one of ours, and libxtables lets `parse` fill it in.
            unsafe { write_options(target, options) };
            1
        }
        Ok(None) => 0,
        Err(refusal) => xtables_error(refusal),
    }
}

/// `options` with option `id`, or `None` if there is no such option.
///
/// # Safety
///
/// getopt has just met option `id`.
unsafe fn parse_option(
    mut options: Options,
    id: c_int,
    inverted: bool,
    family: Family,
    protocol: RuleProtocol,
) -> Result<Option<Options>, Refusal> {
    let argument;
    let option = match id {
        O_TO_PORTS => {
            // SAFETY: iptables has one thread, so nobody writes to getopt's variable meanwhile.
            let optarg = unsafe { bindings::optarg };
            // SAFETY: For an option with `required_argument` getopt points `optarg` to that
            // argument, a string of the command line, which outlives this call.
            argument = unsafe { CStr::from_ptr(optarg) }.to_string_lossy();
            GivenOption::ToPorts(&argument)
        }
        O_RANDOM => GivenOption::Random,
        O_RANDOM_FULLY => GivenOption::RandomFully,
        _ => return Ok(None),
    };
    options.add(&option, inverted, family, protocol)?;
    Ok(Some(options))
}

/// Shows a rule for `iptables -L`.
///
/// # Safety
///
/// Only for libxtables: `target` is a target of ours.
unsafe extern "C" fn print(_ip: *const c_void, target: *const xt_entry_target, _numeric: c_int) {
    // SAFETY: libxtables calls the `print` of the target that it found by name and revision.
    write_stdout(&unsafe { read_options(target) }.print_text());
}

/// Shows a rule for `iptables -S` and `iptables-save`.
///
/// # Safety
///
/// Only for libxtables: `target` is a target of ours.
unsafe extern "C" fn save(_ip: *const c_void, target: *const xt_entry_target) {
    // SAFETY: libxtables calls the `save` of the target that it found by name and revision.
    write_stdout(&unsafe { read_options(target) }.save_text());
}

/// The options of a target.
///
/// # Safety
///
/// `target` is valid for reads of a target of ours: its data, right behind the head, are one
/// `xt_rustmasq_info`, the size that was registered, from the kernel or zeroed by iptables.
unsafe fn read_options(target: *const xt_entry_target) -> Options {
    // SAFETY: By the caller's promise the head is there.
    let data = unsafe { &raw const (*target).data }.cast::<xt_rustmasq_info>();
    // SAFETY: By the caller's promise an `xt_rustmasq_info` follows, all of it initialised, and
    // every bit pattern is one. Within a rule blob a 32-bit program may find it unaligned.
    unsafe { data.read_unaligned() }.into()
}

/// Puts the options into a target.
///
/// # Safety
///
/// `target` is valid for writes of a target of ours, as with [`read_options`].
unsafe fn write_options(target: *mut xt_entry_target, options: Options) {
    // SAFETY: By the caller's promise the head is there.
    let data = unsafe { &raw mut (*target).data }.cast::<xt_rustmasq_info>();
    // SAFETY: By the caller's promise there is room for an `xt_rustmasq_info` behind the head; a
    // write wants no alignment.
    unsafe { data.write_unaligned(options.into()) };
}

/// Prints `text` where iptables prints.
fn write_stdout(text: &str) {
    // CAST: A few lines at most.
    let length = text.len() as c_int;
    // SAFETY: The format takes an `int` and a `char *`, and printf reads no more than `length`
    // bytes from the latter, which are `text`'s.
    unsafe { bindings::printf(c"%.*s".as_ptr(), length, text.as_ptr()) };
}

/// Prints the refusal in the way of the program that runs, and ends it with status 2.
fn xtables_error(refusal: Refusal) -> ! {
    // The program exits without dropping anything, so this is the last of the text either way.
    let text: &'static str = format!("{}: {refusal}", NAME.to_string_lossy()).leak();
    drop(refusal);
    // SAFETY: iptables has pointed `xt_params` to its globals before it loads an extension, has one
    // thread, and does not change them.
    let exit_err = unsafe { (*bindings::xt_params).exit_err };
    if let Some(exit_err) = exit_err {
        // CAST: No argument of a command line is as long as 2 GiB.
        let length = text.len() as c_int;
        // SAFETY: The format takes an `int` and a `char *`, and no more than `length` bytes are
        // read from the latter, which are `text`'s. No value with a destructor is alive here or in
        // `parse`, so the function may leave in any way it likes.
        unsafe {
            exit_err(
                bindings::PARAMETER_PROBLEM,
                c"%.*s".as_ptr(),
                length,
                text.as_ptr(),
            )
        }
    }
    eprintln!("{text}");
    std::process::exit(bindings::PARAMETER_PROBLEM as c_int)
}
