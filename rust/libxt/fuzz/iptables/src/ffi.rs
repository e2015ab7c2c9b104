// SPDX-License-Identifier: GPL-2.0

//! The border to `iptables.c`.

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

/// `struct xt_rustmasq_info`
pub type Rule = [u8; size_of::<bindings::xt_rustmasq_info>()];

/// A rule's family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Ipv4,
    Ipv6,
}

/// What `-p` said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// 0: every one
    pub number: u16,
    pub inverted: bool,
}

/// An option that the extension was given.
#[derive(Clone, Debug)]
pub struct GivenOption {
    /// Its name in the extension's own table, without the dashes.
    pub name: String,
    pub argument: Option<Vec<u8>>,
    /// `!` stood before it.
    pub inverted: bool,
    /// What `-p` had said by then.
    pub protocol: Protocol,
    /// The rule after it.
    pub rule: Rule,
}

/// What became of a command line.
#[derive(Debug)]
pub struct Outcome {
    pub options: Vec<GivenOption>,
    /// The words by which the extension refused the last one of them.
    pub refusal: Option<Vec<u8>>,
    /// How many words of the line were for nobody here. iptables would have stopped at the first.
    pub skipped: c_int,
}

/// What an extension can show of a rule, and for what.
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
}

/// The extension, getopt and libxtables have one state for the whole program.
static STATE: Mutex<()> = Mutex::new(());

/// Reads a command line whose first word is the program's name.
pub fn parse(family: Family, line: &[CString]) -> Outcome {
    let _state = STATE.lock();
    // CAST: getopt gets `char **`, and glibc's writes to the array at most, never to the words.
    let words = line.iter().map(|word| word.as_ptr().cast_mut());
    let mut argv: Vec<*mut c_char> = words.chain([ptr::null_mut()]).collect();
    let mut outcome = MaybeUninit::<bindings::outcome>::zeroed();
    // SAFETY: `argv` is an array of `line.len()` strings, each of which ends with a zero, and ends
    // with NULL; the strings live until this function ends. `outcome` is writable. The state that
    // the function works on is locked.
    unsafe {
        bindings::iptables_parse(
            family as c_int,
            line.len() as c_int,
            argv.as_mut_ptr(),
            outcome.as_mut_ptr(),
        );
    }
    // SAFETY: It is integers and pointers, all of which may be zero, as they were made.
    let outcome = unsafe { outcome.assume_init() };
    // CAST: `count` is not negative.
    let options = outcome.options[..outcome.count as usize].iter();
    Outcome {
        // SAFETY: The first `count` are filled in, and `line` is still there.
        options: options
            .map(|option| unsafe { GivenOption::new(option) })
            .collect(),
        // SAFETY: With a refusal there is a message, which `iptables_parse` gave.
        refusal: (outcome.refused != 0).then(|| unsafe { take_string(outcome.message) }),
        skipped: outcome.skipped,
    }
}

/// What the extension has to say of a rule.
pub fn show(family: Family, callback: Callback, rule: &Rule) -> Vec<u8> {
    let _state = STATE.lock();
    let callback = match callback {
        Callback::Help => bindings::HELP,
        Callback::Print => bindings::PRINT,
        Callback::PrintNumeric => bindings::PRINT_NUMERIC,
        Callback::Save => bindings::SAVE,
    };
    // SAFETY: `rule` is as long as a rule is. The state that the function works on is locked.
    let text = unsafe { bindings::iptables_show(family as c_int, callback, rule.as_ptr()) };
    // SAFETY: `text` is what `iptables_show` gave.
    unsafe { take_string(text) }
}

impl GivenOption {
    /// # Safety
    ///
    /// `option` is filled in, and the command line that it points into is still there.
    unsafe fn new(option: &bindings::given_option) -> Self {
        Self {
            // SAFETY: The name is a string of the extension's table, which is static.
            name: unsafe { copy_string(option.name) }
                .and_then(|name| String::from_utf8(name).ok())
                .expect("a name"),
            // SAFETY: The argument is NULL or within a string of the command line.
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

/// # Safety
///
/// `string` is NULL or a string that ends with a zero.
unsafe fn copy_string(string: *const c_char) -> Option<Vec<u8>> {
    // SAFETY: By the caller's promise it is a string.
    (!string.is_null()).then(|| unsafe { CStr::from_ptr(string) }.to_bytes().to_vec())
}

/// # Safety
///
/// `string` is a string that one of the functions of `iptables.c` gave away.
unsafe fn take_string(string: *mut c_char) -> Vec<u8> {
    // SAFETY: By the caller's promise it is a string.
    let text = unsafe { CStr::from_ptr(string) }.to_bytes().to_vec();
    // SAFETY: By the caller's promise it is ours to free, and nothing points to it any more.
    unsafe { bindings::iptables_free(string) };
    text
}
