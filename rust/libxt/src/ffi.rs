// SPDX-License-Identifier: GPL-2.0

//! The FFI layer to libxtables.
//!
//! C header: `xtables.h`
//!
//! Each callback converts its arguments to Rust types, calls safe code and translates the result.
//! Text is printed through C's stdio, as iptables prints its own text: Rust's stdout has a separate
//! buffer, so the two would get out of order.

use std::borrow::Cow;
use std::cell::UnsafeCell;
use std::ffi::{
    c_char,
    c_int,
    c_uint,
    c_void,
    CStr,
    CString, //
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
    xt_rustmasq_info_v1,
    xt_xlate,
    xt_xlate_tg_params,
    xtables_target, //
};
use crate::options::{
    Cone,
    Context,
    GivenOption,
    Manner,
    Options,
    Refusal,
    Revision, //
};
use crate::place::wrong_place;
use crate::protocol::{
    Family,
    RuleProtocol, //
};

/// The name after `-j`.
const NAME: &CStr = c"RUSTMASQ";

// The ids by which getopt reports the options of `EXTRA_OPTS` to `parse`.
const O_TO_PORTS: c_int = 1;
const O_RANDOM: c_int = 2;
const O_RANDOM_FULLY: c_int = 3;
const O_WHEN_FULL: c_int = 4;
const O_FULL_CONE: c_int = 5;
const O_ADDRESS_RESTRICTED_CONE: c_int = 6;
const O_PORT_RESTRICTED_CONE: c_int = 7;
// Of revision 1 alone, as those that follow.
const O_PSID: c_int = 8;
const O_EXCEPT_PORTS: c_int = 9;
const O_EXCEPT_RESERVED: c_int = 10;
const O_MAX_FLOWS_PER_HOST: c_int = 11;
const O_ROUTE_SOURCE: c_int = 12;
const O_KEEP_OWN: c_int = 13;

// The layout that xt_RUSTMASQ.h documents; the kernel module is built from the same header.
const _: () = assert!(size_of::<xt_rustmasq_info>() == 48);
const _: () = assert!(offset_of!(xt_rustmasq_info, kernel_private) == 16);
const _: () = assert!(size_of::<xt_rustmasq_info_v1>() == 168);
const _: () = assert!(offset_of!(xt_rustmasq_info_v1, kernel_private) == 136);

/// The number of targets for iptables: one for each family and revision.
const TARGET_COUNT: usize = 4;

/// Registered targets, which libxtables links into its own list and writes to.
struct Targets<const N: usize>(UnsafeCell<[xtables_target; N]>);

// SAFETY: The only Rust code that uses the targets is `register`, which takes their address and
// passes it to libxtables. From then on only libxtables accesses them, and it is single-threaded.
unsafe impl<const N: usize> Sync for Targets<N> {}

/// The targets for iptables and its relatives.
static TARGETS: Targets<TARGET_COUNT> = Targets(UnsafeCell::new([
    target::<ipt_entry, xt_rustmasq_info_v1>(),
    target::<ip6t_entry, xt_rustmasq_info_v1>(),
    target::<ipt_entry, xt_rustmasq_info>(),
    target::<ip6t_entry, xt_rustmasq_info>(),
]));

/// The targets for nft, of both families.
///
/// nft lists rules of both families, and libxtables keeps only the targets of one: the family of
/// the rule that made it load the extension. It has these for either.
static NFT_TARGETS: Targets<2> = Targets(UnsafeCell::new([
    nft_target::<xt_rustmasq_info_v1>(),
    nft_target::<xt_rustmasq_info>(),
]));

/// The options in getopt's form, those of revision 0 first; an empty entry ends the table.
struct OptionTable<const N: usize>([option; N]);

// SAFETY: The table is never written to: libxtables takes a pointer to const and copies the
// entries. Its pointers are NULL or point to string literals, which are constant as well.
unsafe impl<const N: usize> Sync for OptionTable<N> {}

/// The number of options of revision 0.
const OLD_OPTIONS: usize = 7;

/// The end of a table of options.
const NO_OPTION: option = option {
    name: ptr::null(),
    has_arg: 0,
    flag: ptr::null_mut(),
    val: 0,
};

/// The options of revision 0.
static OLD_OPTS: OptionTable<{ OLD_OPTIONS + 1 }> = {
    let mut options = [NO_OPTION; OLD_OPTIONS + 1];
    let mut n = 0;
    while n < OLD_OPTIONS {
        options[n] = ALL_OPTIONS[n];
        n += 1;
    }
    OptionTable(options)
};

/// The options of revision 1.
static EXTRA_OPTS: OptionTable<14> = OptionTable(ALL_OPTIONS);

const ALL_OPTIONS: [option; 14] = [
    getopt_option(c"to-ports", bindings::required_argument, O_TO_PORTS),
    getopt_option(c"random", bindings::no_argument, O_RANDOM),
    getopt_option(c"random-fully", bindings::no_argument, O_RANDOM_FULLY),
    getopt_option(c"when-full", bindings::required_argument, O_WHEN_FULL),
    getopt_option(c"full-cone", bindings::no_argument, O_FULL_CONE),
    getopt_option(
        c"address-restricted-cone",
        bindings::no_argument,
        O_ADDRESS_RESTRICTED_CONE,
    ),
    getopt_option(
        c"port-restricted-cone",
        bindings::no_argument,
        O_PORT_RESTRICTED_CONE,
    ),
    getopt_option(c"psid", bindings::required_argument, O_PSID),
    getopt_option(c"except-ports", bindings::required_argument, O_EXCEPT_PORTS),
    getopt_option(c"except-reserved", bindings::no_argument, O_EXCEPT_RESERVED),
    getopt_option(
        c"max-flows-per-host",
        bindings::required_argument,
        O_MAX_FLOWS_PER_HOST,
    ),
    getopt_option(c"route-source", bindings::no_argument, O_ROUTE_SOURCE),
    getopt_option(c"keep-own", bindings::no_argument, O_KEEP_OWN),
    NO_OPTION,
];

const fn getopt_option(name: &'static CStr, has_arg: c_uint, val: c_int) -> option {
    option {
        name: name.as_ptr(),
        // CAST: `no_argument` is 0 and `required_argument` is 1.
        has_arg: has_arg as c_int,
        flag: ptr::null_mut(),
        val,
    }
}

/// Returns the target for the family of `E`, of the revision of `F`.
const fn target<E: Entry, F: Form>() -> xtables_target {
    xtables_target {
        family: E::NFPROTO,
        help: Some(help::<E, F>),
        parse: Some(parse::<E, F>),
        final_check: Some(final_check),
        extra_opts: F::OPTIONS,
        ..common_target::<F>()
    }
}

/// Returns the target for nft, of the revision of `F`.
const fn nft_target<F: Form>() -> xtables_target {
    xtables_target {
        family: bindings::NFPROTO_UNSPEC as u16,
        ..common_target::<F>()
    }
}

/// Returns the target of the revision of `F`, with what does not depend on the family.
const fn common_target<F: Form>() -> xtables_target {
    // SAFETY: All members of `xtables_target` are integers, raw pointers or `Option`s of function
    // pointers, for which all-zero bytes are the values 0, NULL and `None`.
    let empty: xtables_target = unsafe { MaybeUninit::zeroed().assume_init() };
    xtables_target {
        version: bindings::XTABLES_VERSION.as_ptr(),
        name: NAME.as_ptr(),
        revision: F::REVISION as u8,
        size: size_of::<F>(),
        userspacesize: F::PRIVATE_OFFSET,
        print: Some(print),
        save: Some(save),
        xlate: Some(xlate),
        ..empty
    }
}

/// A rule's binary form, one C type for each revision.
///
/// Only C types that consist of integers may implement it: [`read_options`] reads them from
/// libxtables.
trait Form: From<Options> + Into<Options> {
    /// The revision.
    const REVISION: Revision;
    /// The offset of the kernel's part.
    const PRIVATE_OFFSET: usize;
    /// The options that it has a place for.
    const OPTIONS: *const option;
}

impl Form for xt_rustmasq_info {
    const REVISION: Revision = Revision::Zero;
    const PRIVATE_OFFSET: usize = offset_of!(Self, kernel_private);
    const OPTIONS: *const option = (&raw const OLD_OPTS).cast();
}

impl Form for xt_rustmasq_info_v1 {
    const REVISION: Revision = Revision::One;
    const PRIVATE_OFFSET: usize = offset_of!(Self, kernel_private);
    const OPTIONS: *const option = (&raw const EXTRA_OPTS).cast();
}

/// Makes the loader call [`register`] when it loads the extension.
///
/// Unit tests leave it out of `.init_array`, since they run without iptables.
// SAFETY: `.init_array` holds pointers to C functions and nothing else, and this static is such a
// pointer. The loader passes three arguments; by the C calling convention `register` may ignore
// them.
#[cfg_attr(not(test), unsafe(link_section = ".init_array"))]
#[used]
static REGISTER: extern "C" fn() = register;

/// Registers the targets with libxtables.
extern "C" fn register() {
    let (targets, count) = if program_name() == Some(NFT) {
        (NFT_TARGETS.0.get().cast(), 2)
    } else {
        (TARGETS.0.get().cast(), TARGET_COUNT as c_uint)
    };
    // SAFETY: The pointer and the count describe the array in `TARGETS` or `NFT_TARGETS`, whose
    // elements are complete. It is static, so libxtables can keep it in its list, and in an
    // `UnsafeCell` that no Rust code accesses, so libxtables can write to it. The program
    // initialises libxtables before it loads an extension.
    unsafe { bindings::xtables_register_targets(targets, count) };
}

/// The name that libnftables gives itself.
const NFT: &CStr = c"nft";

/// Returns the name of the program, as it told libxtables.
fn program_name() -> Option<&'static CStr> {
    // SAFETY: The program sets `xt_params` to its static `xtables_globals` before it loads an
    // extension, or leaves it NULL. It is single-threaded, so nothing writes to either of them
    // during this read.
    let name = unsafe { bindings::xt_params.as_ref() }?.program_name;
    // SAFETY: iptables and libnftables let `program_name` point to a string literal or to a string
    // of the command line, neither of which ever ends or changes.
    (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) })
}

/// A rule's entry: the rule without its matches and its target, one C type for each family.
///
/// Only C types that consist of integers may implement it: [`parse`] reads them from libxtables.
trait Entry {
    /// The family.
    const FAMILY: Family;
    /// The family's number in netfilter, `NFPROTO_*`.
    const NFPROTO: u16;

    /// Returns the protocols that the rule matches according to the command line so far.
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

/// Prints the help for `iptables -j RUSTMASQ -h`.
extern "C" fn help<E: Entry, F: Form>() {
    write_stdout(&Options::help_text(E::FAMILY, F::REVISION));
}

/// Parses one option of the command line into the target's data.
///
/// Returns 1, or 0 if the target has no option `id`. A refused option ends the program.
///
/// # Safety
///
/// Called only by libxtables, right after getopt has returned option `id`. `entry` points to an
/// `E`, and the target is of the revision of `F`. `flags` points to an integer that was 0 before the rule's first option and that nobody else
/// writes to. `target` points to a pointer to a RUSTMASQ target that may be read and written, as
/// [`read_options`] and [`write_options`] require.
unsafe extern "C" fn parse<E: Entry, F: Form>(
    id: c_int,
    _argv: *mut *mut c_char,
    inverted: c_int,
    flags: *mut c_uint,
    entry: *const c_void,
    target: *mut *mut xt_entry_target,
) -> c_int {
    // SAFETY: `parse::<E, F>` is registered for the family whose entries are `E`s, and libxtables
    // calls it only while it parses a rule of that family. An `E` consists of integers, so that any
    // bytes are a valid one, and `read_unaligned` does not depend on its alignment.
    let entry = unsafe { entry.cast::<E>().read_unaligned() };
    // SAFETY: libxtables passes the address of its own member `xtables_target.t`, which it has set
    // to the target of the new rule.
    let target = unsafe { *target };
    // SAFETY: iptables allocated this target with the size registered in `target`, filled it with
    // zeros, and since then only this function has written to its data.
    let options = unsafe { read_options(target) };
    // SAFETY: libxtables passes the address of its own member `xtables_target.tflags`.
    let seen = unsafe { &mut *flags };
    let bit = 1 << id;
    let manner = Manner {
        inverted: inverted != 0,
        repeated: *seen & bit != 0,
    };
    let context = Context {
        family: E::FAMILY,
        protocol: entry.protocol(),
        revision: F::REVISION,
    };

    // SAFETY: getopt was not called since it returned option `id`.
    match unsafe { parse_option(options, id, manner, context) } {
        Ok(Some(options)) => {
            *seen |= bit;
            // SAFETY: The target has the registered size, as above where it was read. It is part of
            // a rule that iptables still builds, and `parse` is the callback to fill it in.
            unsafe { write_options::<F>(target, options) };
            1
        }
        Ok(None) => 0,
        // This may leave the function by `longjmp`, as in the fuzz targets, which runs no
        // destructors: no value that has one may be alive here. The call drops `refusal` itself.
        Err(refusal) => xtables_error(refusal),
    }
}

/// Adds option `id` to `options`.
///
/// Returns the new options, or `None` if the target has no option `id`, or why it is refused.
///
/// # Safety
///
/// getopt must have returned option `id` in its last call.
unsafe fn parse_option(
    mut options: Options,
    id: c_int,
    manner: Manner,
    context: Context,
) -> Result<Option<Options>, Refusal> {
    let has_argument = matches!(
        id,
        O_TO_PORTS | O_WHEN_FULL | O_PSID | O_EXCEPT_PORTS | O_MAX_FLOWS_PER_HOST
    );
    // SAFETY: The last option that getopt returned is this one, and these need an argument.
    let argument = has_argument.then(|| unsafe { argument_of_option() });
    let argument = argument.as_deref().unwrap_or_default();
    let option = match id {
        O_TO_PORTS => GivenOption::ToPorts(argument),
        O_RANDOM => GivenOption::Random,
        O_RANDOM_FULLY => GivenOption::RandomFully,
        O_FULL_CONE => GivenOption::Cone(Cone::Full),
        O_ADDRESS_RESTRICTED_CONE => GivenOption::Cone(Cone::AddressRestricted),
        O_PORT_RESTRICTED_CONE => GivenOption::Cone(Cone::PortRestricted),
        O_WHEN_FULL => GivenOption::WhenFull(argument),
        O_PSID => GivenOption::Psid(argument),
        O_EXCEPT_PORTS => GivenOption::ExceptPorts(argument),
        O_EXCEPT_RESERVED => GivenOption::ExceptReserved,
        O_MAX_FLOWS_PER_HOST => GivenOption::MaxFlowsPerHost(argument),
        O_ROUTE_SOURCE => GivenOption::RouteSource,
        O_KEEP_OWN => GivenOption::KeepOwn,
        _ => return Ok(None),
    };
    let service = |name: &str| service_port(name, context.protocol);
    options.add(&option, manner, context, &service)?;
    Ok(Some(options))
}

/// Returns the argument of the option that getopt returned last.
///
/// # Safety
///
/// That option must be declared with `required_argument`, and the result must not be used after
/// the callback has returned.
unsafe fn argument_of_option<'a>() -> Cow<'a, str> {
    // SAFETY: Only getopt writes to its variable `optarg`, and it does not run now: iptables is
    // single-threaded.
    let optarg = unsafe { bindings::optarg };
    // SAFETY: The caller vouches for an option with an argument, so `optarg` points to it: a
    // NUL-terminated string of the command line. Nothing modifies or frees that string before the
    // callback returns.
    unsafe { CStr::from_ptr(optarg) }.to_string_lossy()
}

/// Returns the port of a service, in host order, or `None` if the system knows no such name.
///
/// A name that the rule's protocol does not have is looked up for any, as MASQUERADE does.
fn service_port(name: &str, protocol: RuleProtocol) -> Option<u16> {
    let name = CString::new(name).ok()?;
    let own = protocol.of_services().map_or(ptr::null(), CStr::as_ptr);
    [own, ptr::null()].into_iter().find_map(|protocol| {
        // SAFETY: `name` is a NUL-terminated string that outlives the call, and `protocol` is one
        // that is static, or NULL, which stands for any. The function keeps neither.
        let port = unsafe { bindings::xtables_service_to_port(name.as_ptr(), protocol) };
        // The function returns -1 if there is no such service.
        u16::try_from(port).ok()
    })
}

/// Checks a rule once all of its options are parsed: refuses a table or chain without the target.
extern "C" fn final_check(_flags: c_uint) {
    // Like `parse`, this may be left by `longjmp`.
    if let Some(refusal) = check_place() {
        xtables_error(refusal);
    }
}

/// Returns why the target is not valid in the table or chain of iptables' command line, if that is
/// so.
///
/// The other programs, such as iptables-restore, get rules from elsewhere.
fn check_place() -> Option<Refusal> {
    if ![Some(c"iptables"), Some(c"ip6tables")].contains(&program_name()) {
        return None;
    }
    let words: Vec<_> = std::env::args_os()
        .skip(1)
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    wrong_place(&words).map(Refusal::from)
}

/// Prints a rule's options for `iptables -L`.
///
/// # Safety
///
/// Called only by libxtables, with a RUSTMASQ target as [`read_options`] requires.
unsafe extern "C" fn print(_ip: *const c_void, target: *const xt_entry_target, _numeric: c_int) {
    // SAFETY: The caller found this callback by the target's name. The kernel has accepted the target,
    // so its size is that of one of the revisions.
    write_stdout(&unsafe { read_options(target) }.print_text());
}

/// Prints a rule's options for `iptables -S` and `iptables-save`.
///
/// # Safety
///
/// Called only by libxtables, with a RUSTMASQ target as [`read_options`] requires.
unsafe extern "C" fn save(_ip: *const c_void, target: *const xt_entry_target) {
    // SAFETY: `target` is of this name. It comes from the kernel, or `parse` has filled it in: either way with the size
    // that is registered for its revision.
    write_stdout(&unsafe { read_options(target) }.save_text());
}

/// Translates a rule's target to a statement of nftables.
///
/// Called for `iptables-translate`, and for `nft list ruleset`, which prints the text in the place
/// of the target. Returns 1, since every rule has a translation.
///
/// # Safety
///
/// Called only by libxtables' users, with an `xt_xlate` of libxtables, and with parameters whose
/// target is a RUSTMASQ target as [`read_options`] requires.
unsafe extern "C" fn xlate(xl: *mut xt_xlate, params: *const xt_xlate_tg_params) -> c_int {
    // SAFETY: The caller passes valid parameters.
    let target = unsafe { (*params).target };
    // SAFETY: The caller found this callback by the target's name. The target comes from the kernel, or
    // `parse` has filled it in: either way it has the size that is registered for its revision.
    let options = unsafe { read_options(target) };

    let mut text = options.nft_text();
    let comment = options.nft_comment();
    if program_name() == Some(NFT) {
        // nft ignores comments that are added to `xl`. The target is the last expression of its
        // rule, so the rule's comment can follow, and iptables gives its rules none of nftables'.
        text = format!("{text} comment {comment}");
    }
    // CAST: The text has less than 200 bytes.
    let length = text.len() as c_int;
    // SAFETY: `xl` is valid, as the caller vouches. The format `%.*s` takes an `int` and a
    // `char *`, which are passed, and `text` has `length` bytes. No pointer is kept.
    unsafe { bindings::xt_xlate_add(xl, c"%.*s".as_ptr(), length, text.as_ptr()) };

    // SAFETY: `xl` is valid.
    let commented = !unsafe { bindings::xt_xlate_get_comment(xl) }.is_null();
    // The user's own comment, of `-m comment`, takes precedence: there can be only one.
    if let (false, Ok(comment)) = (commented, CString::new(comment)) {
        // SAFETY: `xl` is valid, and `comment` is a NUL-terminated string, which is copied.
        unsafe { bindings::xt_xlate_add_comment(xl, comment.as_ptr()) };
    }
    1
}

/// Reads the options from a target's data, in the form that its size tells.
///
/// iptables-nft and nft find a callback by the target's name alone, so that the one of the newest
/// revision gets rules of older ones, too; iptables-nft writes that newest one into their header.
///
/// # Safety
///
/// `target` must be valid for reads of an `xt_entry_target` and of its data right behind it: an
/// initialised [`Form`], whose size the header has. It need not be aligned.
unsafe fn read_options(target: *const xt_entry_target) -> Options {
    const HEADER: usize = size_of::<xt_entry_target>();
    // SAFETY: The caller vouches for an `xt_entry_target`, which begins with its size.
    let size = unsafe { (&raw const (*target).u.target_size).read_unaligned() };
    // SAFETY: The caller vouches for a form of that size, and there are only these two.
    unsafe {
        if usize::from(size) < HEADER + size_of::<xt_rustmasq_info_v1>() {
            read_form::<xt_rustmasq_info>(target)
        } else {
            read_form::<xt_rustmasq_info_v1>(target)
        }
    }
}

/// Reads the options from a target's data.
///
/// # Safety
///
/// `target` must be valid for reads of an `xt_entry_target` and of an initialised `F`, its data,
/// right behind it. It need not be aligned.
unsafe fn read_form<F: Form>(target: *const xt_entry_target) -> Options {
    // SAFETY: The caller vouches for an `xt_entry_target`, so the address of its last member is in
    // bounds. Nothing is read here.
    let data = unsafe { &raw const (*target).data }.cast::<F>();
    // SAFETY: The caller vouches for an initialised `F` there. It consists of integers, so any
    // bytes are a valid one. In a 32-bit program's rule blob it may be unaligned, hence
    // `read_unaligned`.
    unsafe { data.read_unaligned() }.into()
}

/// Writes the options to a target's data.
///
/// # Safety
///
/// `target` must be valid for reads of an `xt_entry_target` and for writes of an `F` right behind
/// it. It need not be aligned.
unsafe fn write_options<F: Form>(target: *mut xt_entry_target, options: Options) {
    // SAFETY: The caller vouches for an `xt_entry_target`, so the address of its last member is in
    // bounds. Nothing is written here.
    let data = unsafe { &raw mut (*target).data }.cast::<F>();
    // SAFETY: The caller vouches for writable space of an `F` there, and `write_unaligned` does not
    // depend on its alignment.
    unsafe { data.write_unaligned(options.into()) };
}

/// Prints `text` through C's stdout.
fn write_stdout(text: &str) {
    // CAST: The help, the longest text, has a few hundred bytes.
    let length = text.len() as c_int;
    // SAFETY: The format `%.*s` takes an `int` and a `char *`, which are passed. printf reads at
    // most `length` bytes from the pointer, and `text` has that many. It keeps no pointer.
    unsafe { bindings::printf(c"%.*s".as_ptr(), length, text.as_ptr()) };
}

/// Prints the refusal as the running program prints its errors, and ends it with status 2.
///
/// Follows the macro `xtables_error` of `xtables.h`.
fn xtables_error(refusal: Refusal) -> ! {
    // Nothing can free the text, since `exit_err` does not return.
    let text: &'static str = format!("{}: {refusal}", NAME.to_string_lossy()).leak();
    drop(refusal);
    // SAFETY: iptables sets `xt_params` to its static `xtables_globals` before it loads an
    // extension. It is single-threaded, so nothing writes to either of them during this read.
    let exit_err = unsafe { (*bindings::xt_params).exit_err };
    if let Some(exit_err) = exit_err {
        // CAST: The text quotes one argument of a command line, which is far shorter than 2 GiB.
        let length = text.len() as c_int;
        // SAFETY: The format `%.*s` takes an `int` and a `char *`, which are passed, and at most
        // `length` bytes are read from the pointer: `text` has that many and is never freed by
        // Rust. `exit_err` may exit or `longjmp`: no value with a destructor is alive here or in
        // `parse`.
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
