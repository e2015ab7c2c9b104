// SPDX-License-Identifier: GPL-2.0

//! The FFI layer to `iptables.c`.

use std::ffi::{
    c_char,
    c_int,
    CStr,
    CString, //
};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Mutex;

use crate::bindings;

/// The bytes of a rule's binary form, `struct xt_rustmasq_info_v1`; or `struct xt_rustmasq_info`, and then zeros.
pub type Rule = [u8; size_of::<bindings::xt_rustmasq_info_v1>()];

/// A target of the extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The family of its rules.
    pub family: Family,
    /// The revision of their binary form: 0 or 1.
    pub revision: u8,
}

impl Target {
    fn which(self) -> bindings::which {
        bindings::which {
            ipv6: self.family as c_int,
            revision: self.revision.into(),
        }
    }
}

/// The address family of a rule; its value is the member `ipv6` of C's `struct which`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// iptables
    Ipv4,
    /// ip6tables
    Ipv6,
}

/// The protocol given with `-p`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// The protocol's number; 0 means every protocol.
    pub number: u16,
    /// Whether a `!` precedes `-p`.
    pub inverted: bool,
}

/// An option that was passed to the extension.
#[derive(Clone, Debug)]
pub struct GivenOption {
    /// The name in the extension's table of options, without the dashes.
    pub name: String,
    /// The argument, if the option takes one.
    pub argument: Option<Vec<u8>>,
    /// Whether a `!` precedes the option.
    pub inverted: bool,
    /// The protocol according to the command line so far.
    pub protocol: Protocol,
    /// The rule after the extension parsed the option.
    pub rule: Rule,
}

/// The result of parsing a command line.
#[derive(Debug)]
pub struct Outcome {
    /// The options that were passed to the extension.
    pub options: Vec<GivenOption>,
    /// The message by which the extension refused the last of them.
    pub refusal: Option<Vec<u8>>,
    /// The number of words that are neither known options nor arguments. iptables would have exited
    /// at the first.
    pub skipped: c_int,
}

/// A callback of the extension that prints text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callback {
    /// `-j RUSTMASQ -h`
    Help,
    /// `-L`
    Print,
    /// `-L -n`
    PrintNumeric,
    /// `-S`
    Save,
    /// `iptables-translate`
    Translate,
    /// `iptables-translate` of a rule with `-m comment`
    TranslateCommented,
}

/// Guards the state of the extension, getopt and libxtables, which is global.
static STATE: Mutex<()> = Mutex::new(());

/// Parses a command line, whose first word is the program's name.
pub fn parse(target: Target, line: &[CString]) -> Outcome {
    let _state = STATE.lock();
    // CAST: getopt takes `char **`. glibc's getopt reorders the array but never writes to the
    // words.
    let words = line.iter().map(|word| word.as_ptr().cast_mut());
    let mut argv: Vec<*mut c_char> = words.chain([ptr::null_mut()]).collect();
    let mut outcome = MaybeUninit::<bindings::outcome>::zeroed();
    // SAFETY: `argv` has `line.len()` pointers to NUL-terminated strings and then NULL. `line` is
    // borrowed, so the strings outlive this call. `outcome` is valid for writes. The global state
    // that `iptables_parse` uses is locked.
    unsafe {
        bindings::iptables_parse(
            target.which(),
            line.len() as c_int,
            argv.as_mut_ptr(),
            outcome.as_mut_ptr(),
        );
    }
    // SAFETY: All members are integers or raw pointers, and the memory was zeroed above, so also
    // those that `iptables_parse` has not written are valid.
    let outcome = unsafe { outcome.assume_init() };
    // CAST: `count` is between 0 and `MAX_OPTIONS`.
    let options = outcome.options[..outcome.count as usize].iter();
    Outcome {
        // SAFETY: `iptables_parse` has filled in the first `count` options. Their arguments point
        // into the strings of `line`, which is borrowed.
        options: options
            .map(|option| unsafe { GivenOption::new(option) })
            .collect(),
        // SAFETY: If `refused` is set, `message` is a string that `iptables_parse` allocated for
        // its caller. Nothing else uses it.
        refusal: (outcome.refused != 0).then(|| unsafe { take_string(outcome.message) }),
        skipped: outcome.skipped,
    }
}

/// Returns the text that a callback of the extension prints for a rule.
pub fn show(target: Target, callback: Callback, rule: &Rule) -> Vec<u8> {
    let _state = STATE.lock();
    let callback = match callback {
        Callback::Help => bindings::HELP,
        Callback::Print => bindings::PRINT,
        Callback::PrintNumeric => bindings::PRINT_NUMERIC,
        Callback::Save => bindings::SAVE,
        Callback::Translate => bindings::TRANSLATE,
        Callback::TranslateCommented => bindings::TRANSLATE_COMMENTED,
    };
    // SAFETY: `rule` is valid for reads of a rule of either revision: it has the size of the larger one. The
    // global state that `iptables_show` uses is locked.
    let text = unsafe { bindings::iptables_show(target.which(), callback, rule.as_ptr()) };
    // SAFETY: `text` is a string that `iptables_show` has just allocated for its caller.
    unsafe { take_string(text) }
}

impl GivenOption {
    /// Copies an option.
    ///
    /// # Safety
    ///
    /// `iptables_parse` must have filled in `option`, and the command line that it parsed must
    /// still be valid.
    unsafe fn new(option: &bindings::given_option) -> Self {
        Self {
            // SAFETY: `name` points into the extension's table of options, whose names are string
            // literals.
            name: unsafe { copy_string(option.name) }
                .and_then(|name| String::from_utf8(name).ok())
                .expect("every option has a UTF-8 name"),
            // SAFETY: `argument` is getopt's `optarg`: NULL or a pointer into a NUL-terminated
            // string of the command line, which the caller vouches for.
            argument: unsafe { copy_string(option.argument) },
            inverted: option.inverted != 0,
            protocol: Protocol {
                number: option.protocol,
                inverted: option.protocol_inverted != 0,
            },
            rule: option.rule,
        }
    }
}

/// Copies a C string; NULL becomes `None`.
///
/// # Safety
///
/// `string` must be NULL or valid as for [`CStr::from_ptr`].
unsafe fn copy_string(string: *const c_char) -> Option<Vec<u8>> {
    // SAFETY: `string` is not NULL here, so the caller vouches for a NUL-terminated string. It is
    // copied before this function returns.
    (!string.is_null()).then(|| unsafe { CStr::from_ptr(string) }.to_bytes().to_vec())
}

/// Copies a C string and frees it.
///
/// # Safety
///
/// `string` must be a string that a function of `iptables.c` allocated for its caller, and nothing
/// may use it afterwards.
unsafe fn take_string(string: *mut c_char) -> Vec<u8> {
    // SAFETY: The caller vouches for a string allocated by `iptables.c`, which terminates it by
    // NUL.
    let text = unsafe { CStr::from_ptr(string) }.to_bytes().to_vec();
    // SAFETY: The caller passes on the ownership of `string`, and `text` is a copy.
    unsafe { bindings::iptables_free(string) };
    text
}
