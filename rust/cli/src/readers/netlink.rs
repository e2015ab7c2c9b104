// SPDX-License-Identifier: GPL-2.0

//! The framing of netlink: messages, and the attributes in them.

/// A netlink message.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Its type (`nlmsg_type`).
    pub kind: u16,
    /// The bytes behind its header.
    pub payload: &'a [u8],
}

const HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;
/// The bits of an attribute's type that are flags (`NLA_F_NESTED`, `NLA_F_NET_BYTEORDER`).
const FLAGS: u16 = 0xc000;

/// Returns the messages of a datagram. It ends before the first that is cut.
pub fn messages(mut rest: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(array(rest.get(..4)?)?)).ok()?;
        let kind = u16::from_ne_bytes(array(rest.get(4..6)?)?);
        let payload = rest.get(HEADER..length)?;
        rest = rest.get(aligned(length)..).unwrap_or_default();
        Some(Message { kind, payload })
    })
}

/// Returns the attributes, each with its type and content. It ends before the first that is cut.
pub fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(array(rest.get(..2)?)?));
        let kind = u16::from_ne_bytes(array(rest.get(2..4)?)?) & !FLAGS;
        let content = rest.get(ATTRIBUTE_HEADER..length)?;
        rest = rest.get(aligned(length)..).unwrap_or_default();
        Some((kind, content))
    })
}

/// Returns the content of the first attribute of the type.
pub fn attribute(attributes_: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(attributes_).find_map(|(kind, content)| (kind == wanted).then_some(content))
}

/// Returns the bytes as an array, if there are as many.
pub fn array<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}

/// Returns the length with its padding.
fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns an attribute with its padding.
    fn encode(kind: u16, content: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(content.len() + 4)
            .unwrap_or(0)
            .to_ne_bytes()
            .to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(content);
        bytes.resize(aligned(bytes.len()), 0);
        bytes
    }

    #[test]
    fn attributes_of_any_length() {
        for length in 0..9 {
            let content = vec![7; length];
            let bytes = [encode(3, &content), encode(0x8004, b"x")].concat();
            let found: Vec<_> = attributes(&bytes).collect();
            assert_eq!(found, [(3, content.as_slice()), (4, b"x")]);
            assert_eq!(attribute(&bytes, 4), Some(&b"x"[..]));
            assert_eq!(attribute(&bytes, 5), None);
        }
    }

    #[test]
    fn attributes_whose_length_is_wrong_end_the_list() {
        for length in [0_u16, 1, 3, 9, 0xffff] {
            let mut bytes = encode(1, &[1, 2, 3, 4]);
            bytes[..2].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(attributes(&bytes).count(), 0, "{length}");
        }
    }

    #[test]
    fn messages_whose_length_is_wrong_end_the_datagram() {
        let mut bytes = vec![0; 40];
        bytes[..4].copy_from_slice(&20_u32.to_ne_bytes());
        bytes[4] = 9;
        bytes[20..24].copy_from_slice(&20_u32.to_ne_bytes());
        let kinds: Vec<_> = messages(&bytes)
            .map(|message| (message.kind, message.payload.len()))
            .collect();
        assert_eq!(kinds, [(u16::from_ne_bytes([9, 0]), 4), (0, 4)]);
        for length in [0_u32, 15, 41, u32::MAX] {
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(messages(&bytes).count(), 0, "{length}");
        }
    }
}
