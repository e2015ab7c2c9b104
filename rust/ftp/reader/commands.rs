// SPDX-License-Identifier: GPL-2.0

//! The words that a line from an FTP client may begin with.

use kernel::prelude::*;

/// The commands, in alphabetical order.
///
/// Most are in IANA's registry "FTP Commands and Extensions" (RFC 5797). Programs use some others: those of drafts
/// (CLNT, CSID, HASH, MACB, MD5, MFCT, MFF, MFMT, MMD5, RANG, XCRC, XMD5, XSHA), those for transfers between two
/// servers (CPSV, PRET, SSCN), pure-ftpd's (ESTA, ESTP, SPSV), and those of servers for Windows (AVBL, COMB, DSIZ,
/// RMDA, THMB). XSHA1, XSHA256 and XSHA512 are left out: the commands here have three or four letters and
/// digits.
#[rustfmt::skip]
const NAMES: [&str; 82] = [
    "ABOR", "ACCT", "ADAT", "ALLO", "APPE", "AUTH", "AVBL", "CCC", "CDUP", "CLNT", "COMB", "CONF", "CPSV", "CSID",
    "CWD", "DELE", "DSIZ", "ENC", "EPRT", "EPSV", "ESTA", "ESTP", "FEAT", "HASH", "HELP", "HOST", "LANG", "LIST",
    "LPRT", "LPSV", "MACB", "MD5", "MDTM", "MFCT", "MFF", "MFMT", "MIC", "MKD", "MLSD", "MLST", "MMD5", "MODE",
    "NLST", "NOOP", "OPTS", "PASS", "PASV", "PBSZ", "PORT", "PRET", "PROT", "PWD", "QUIT", "RANG", "REIN", "REST",
    "RETR", "RMD", "RMDA", "RNFR", "RNTO", "SITE", "SIZE", "SMNT", "SPSV", "SSCN", "STAT", "STOR", "STOU", "STRU",
    "SYST", "THMB", "TYPE", "USER", "XCRC", "XCUP", "XCWD", "XMD5", "XMKD", "XPWD", "XRMD", "XSHA",
];

/// Returns a command of at most four bytes as a number: the bytes, the first one highest, and zeros behind them.
pub(super) const fn command(name: &[u8]) -> u32 {
    let mut number = 0;
    let mut n = 0;
    while n < 4 {
        number = number << 8 | if n < name.len() { name[n] as u32 } else { 0 };
        n += 1;
    }
    number
}

/// Returns whether a number is that of a command in capitals.
pub(super) fn is_command(number: u32) -> bool {
    number != 0 && TABLE.get(slot(number, MULTIPLIER)) == Some(&number)
}

/// The number of slots in the table: so many that a multiplier is soon found.
const SLOTS: usize = 512;

/// Each command in a slot of its own, so that one look tells whether a number is one.
static TABLE: [u32; SLOTS] = {
    let mut table = [0; SLOTS];
    let mut n = 0;
    while n < NUMBERS.len() {
        table[slot(NUMBERS[n], MULTIPLIER)] = NUMBERS[n];
        n += 1;
    }
    table
};

const NUMBERS: [u32; NAMES.len()] = {
    let mut numbers = [0; NAMES.len()];
    let mut n = 0;
    while n < NAMES.len() {
        numbers[n] = command(NAMES[n].as_bytes());
        n += 1;
    }
    numbers
};

const fn slot(number: u32, multiplier: u32) -> usize {
    (number.wrapping_mul(multiplier) >> (32 - SLOTS.ilog2())) as usize
}

/// The first odd number, from an arbitrary one on, that leads no two commands to the same slot.
const MULTIPLIER: u32 = {
    let mut multiplier = 0x9e37_79b1;
    while !separates(multiplier) {
        multiplier += 2;
    }
    multiplier
};

const fn separates(multiplier: u32) -> bool {
    let mut taken = [false; SLOTS];
    let mut n = 0;
    while n < NUMBERS.len() {
        let slot = slot(NUMBERS[n], multiplier);
        if taken[slot] {
            return false;
        }
        taken[slot] = true;
        n += 1;
    }
    true
}

#[kunit_tests(rustmasq_ftp_commands)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_a_command() {
        for name in NAMES {
            assert!(is_command(command(name.as_bytes())));
        }
    }

    #[test]
    fn names_are_sorted_capitals() {
        assert!(NAMES.is_sorted_by(|a, b| a < b));
        for name in NAMES {
            assert!(matches!(name.len(), 3 | 4));
            assert!(name
                .bytes()
                .all(|byte| byte.is_ascii_uppercase() || byte == b'5'));
        }
    }

    #[test]
    fn other_words_are_none() {
        assert!(!is_command(0));
        for word in [
            "GET", "PUT", "POST", "HEAD", "EHLO", "NICK", "pwd", "PW", "PWDX", "PORU", "P",
        ] {
            assert!(!is_command(command(word.as_bytes())));
        }
    }

    #[test]
    fn no_number_beside_a_command_is_one() {
        for name in NAMES {
            for bit in 0..32 {
                let number = command(name.as_bytes()) ^ 1 << bit;
                assert_eq!(is_command(number), NUMBERS.contains(&number));
            }
        }
    }
}
