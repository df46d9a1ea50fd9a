//! Protobuf's wire format: tags, varints, fixed numbers and spans, read with every bound checked.

use std::ops::Range;

use crate::fault::{Fault, Outcome};

/// Levels of groups that are skipped; a parser of Java stops at the same.
const GROUPS_MAX: usize = 100;

/// How a value stands on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WireType {
    Varint,
    Fixed64,
    Span,
    StartGroup,
    EndGroup,
    Fixed32,
}

impl WireType {
    fn name(self) -> &'static str {
        match self {
            WireType::Varint => "a varint",
            WireType::Fixed64 => "8 bytes",
            WireType::Span => "bytes with a length",
            WireType::StartGroup => "the start of a group",
            WireType::EndGroup => "the end of a group",
            WireType::Fixed32 => "4 bytes",
        }
    }

    /// Fails unless it is the one that the schema asks for.
    #[inline]
    pub(crate) fn expect(self, wanted: WireType) -> Outcome<()> {
        if self == wanted {
            return Ok(());
        }
        let (wanted, found) = (wanted.name(), self.name());
        Err(Fault::new(format!(
            "is {wanted} in the schema but the record has {found}; it was written with another schema"
        )))
    }
}

/// A part of one record that is read from its front. Positions count in the whole record, so that a part can be
/// remembered and read later.
#[derive(Debug, Clone)]
pub(crate) struct Wire<'p> {
    payload: &'p [u8],
    at: usize,
    end: usize,
}

impl<'p> Wire<'p> {
    /// The whole record.
    pub(crate) fn new(payload: &'p [u8]) -> Self {
        Self { payload, at: 0, end: payload.len() }
    }

    /// A part of it, which [`Self::span`] gave.
    #[inline]
    pub(crate) fn part(payload: &'p [u8], range: &Range<usize>) -> Self {
        Self { payload, at: range.start, end: range.end.min(payload.len()) }
    }

    /// The whole record, of which this is a part.
    pub(crate) fn payload(&self) -> &'p [u8] {
        self.payload
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.at >= self.end
    }

    /// What has not been read.
    pub(crate) fn rest(&self) -> &'p [u8] {
        self.payload.get(self.at..self.end).unwrap_or_default()
    }

    /// The bytes of a span.
    #[inline]
    pub(crate) fn bytes(&self, range: &Range<usize>) -> &'p [u8] {
        self.payload.get(range.clone()).unwrap_or_default()
    }

    /// Field number and wire type of what comes next.
    #[inline]
    pub(crate) fn tag(&mut self) -> Outcome<(u32, WireType)> {
        let at = self.at;
        let tag = self.varint()?;
        let wire_type = match tag & 7 {
            0 => WireType::Varint,
            1 => WireType::Fixed64,
            2 => WireType::Span,
            3 => WireType::StartGroup,
            4 => WireType::EndGroup,
            5 => WireType::Fixed32,
            other => return Err(Fault::new(format!("value is no Protobuf message: wire type {other} at byte {at}"))),
        };
        match u32::try_from(tag >> 3) {
            Ok(number) if number > 0 && number < 1 << 29 => Ok((number, wire_type)),
            Ok(_) | Err(_) => {
                Err(Fault::new(format!("value is no Protobuf message: field number {} at byte {at}", tag >> 3)))
            }
        }
    }

    #[inline]
    pub(crate) fn varint(&mut self) -> Outcome<u64> {
        let rest = self.payload.get(self.at..self.end).unwrap_or_default();
        if let Some(byte) = rest.first().filter(|byte| **byte < 0x80) {
            self.at += 1;
            return Ok(u64::from(*byte));
        }
        let mut number = 0u64;
        for (index, byte) in rest.iter().take(10).enumerate() {
            let bits = u64::from(byte & 0x7f);
            if index == 9 && bits > 1 {
                break;
            }
            number |= bits << (7 * index);
            if *byte < 0x80 {
                self.at += index + 1;
                return Ok(number);
            }
        }
        if rest.len() < 10 {
            return Err(self.truncated());
        }
        Err(Fault::new(format!("value is no Protobuf message: a varint of more than 64 bits at byte {}", self.at)))
    }

    #[inline]
    pub(crate) fn fixed32(&mut self) -> Outcome<u32> {
        let bytes = self.payload.get(self.at..self.end).and_then(|rest| rest.first_chunk::<4>());
        let number = u32::from_le_bytes(*bytes.ok_or_else(|| self.truncated())?);
        self.at += 4;
        Ok(number)
    }

    #[inline]
    pub(crate) fn fixed64(&mut self) -> Outcome<u64> {
        let bytes = self.payload.get(self.at..self.end).and_then(|rest| rest.first_chunk::<8>());
        let number = u64::from_le_bytes(*bytes.ok_or_else(|| self.truncated())?);
        self.at += 8;
        Ok(number)
    }

    /// Where the bytes of a string, a message or packed numbers are; they are passed over.
    #[inline]
    pub(crate) fn span(&mut self) -> Outcome<Range<usize>> {
        let length = self.varint()?;
        let end = usize::try_from(length).ok().and_then(|length| self.at.checked_add(length));
        match end.filter(|end| *end <= self.end) {
            Some(end) => {
                let range = self.at..end;
                self.at = end;
                Ok(range)
            }
            None => Err(Fault::new(format!(
                "value is truncated: {length} bytes are announced at byte {} and {} are there",
                self.at,
                self.end - self.at
            ))),
        }
    }

    /// Passes over the value of a field that the schema does not have.
    pub(crate) fn skip(&mut self, number: u32, wire_type: WireType) -> Outcome<()> {
        match wire_type {
            WireType::Varint => self.varint().map(|_| ()),
            WireType::Fixed64 => self.fixed64().map(|_| ()),
            WireType::Span => self.span().map(|_| ()),
            WireType::Fixed32 => self.fixed32().map(|_| ()),
            WireType::StartGroup => self.skip_group(number),
            WireType::EndGroup => Err(self.stray_end(number)),
        }
    }

    fn skip_group(&mut self, number: u32) -> Outcome<()> {
        let mut open = vec![number];
        while let Some(innermost) = open.last().copied() {
            let (number, wire_type) = self.tag()?;
            match wire_type {
                WireType::StartGroup if open.len() >= GROUPS_MAX => {
                    return Err(Fault::new(format!("value nests groups deeper than {GROUPS_MAX} levels")));
                }
                WireType::StartGroup => open.push(number),
                WireType::EndGroup if number == innermost => {
                    open.pop();
                }
                WireType::EndGroup => return Err(self.stray_end(number)),
                WireType::Varint | WireType::Fixed64 | WireType::Span | WireType::Fixed32 => {
                    self.skip(number, wire_type)?;
                }
            }
        }
        Ok(())
    }

    fn stray_end(&self, number: u32) -> Box<Fault> {
        Fault::new(format!(
            "value is no Protobuf message: group {number} ends before byte {} but did not start",
            self.at
        ))
    }

    fn truncated(&self) -> Box<Fault> {
        Fault::new(format!("value is truncated: it ends within a number at byte {}", self.at))
    }
}

/// A signed number that was written so that small ones are short, whatever their sign.
pub(crate) fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

/// As [`unzigzag`], of 32 bits.
pub(crate) fn unzigzag32(number: u64) -> i32 {
    let number = number as u32;
    (number >> 1) as i32 ^ -((number & 1) as i32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_examples_of_the_encoding_guide_are_read() {
        // "Protocol Buffers: Encoding": field 1 is 150, field 2 is "testing", field 3 a message.
        let mut wire = Wire::new(&[0x08, 0x96, 0x01, 0x12, 0x07, 0x74, 0x65, 0x73, 0x74, 0x69, 0x6e, 0x67, 0x1a, 0x00]);
        assert_eq!(wire.tag(), Ok((1, WireType::Varint)));
        assert_eq!(wire.varint(), Ok(150));
        assert_eq!(wire.tag(), Ok((2, WireType::Span)));
        let span = wire.span().unwrap();
        assert_eq!(wire.bytes(&span), b"testing");
        assert_eq!(wire.tag(), Ok((3, WireType::Span)));
        assert_eq!(wire.span(), Ok(14..14));
        assert!(wire.is_empty());
    }

    #[test]
    fn zigzag_goes_back() {
        for (written, meant) in
            [(0, 0), (1, -1), (2, 1), (3, -2), (0xffff_fffe, 0x7fff_ffff), (0xffff_ffff, -0x8000_0000)]
        {
            assert_eq!(unzigzag(written), meant);
            assert_eq!(i64::from(unzigzag32(written)), meant);
        }
        assert_eq!((unzigzag(u64::MAX), unzigzag(u64::MAX - 1)), (i64::MIN, i64::MAX));
    }

    #[test]
    fn what_is_cut_short_or_impossible_is_an_error_with_the_place() {
        let skip = |bytes: &[u8]| {
            let mut wire = Wire::new(bytes);
            let (number, wire_type) = wire.tag()?;
            wire.skip(number, wire_type).map(|()| wire.is_empty())
        };
        for (bytes, expected) in [
            (&[0x08u8][..], "value is truncated: it ends within a number at byte 1"),
            (&[0x08, 0x80], "value is truncated: it ends within a number at byte 1"),
            (&[0x12, 0x05, 0x00], "value is truncated: 5 bytes are announced at byte 2 and 1 are there"),
            (&[0x0d, 1, 2, 3], "value is truncated: it ends within a number at byte 1"),
            (&[0x09, 1, 2, 3], "value is truncated: it ends within a number at byte 1"),
            (&[0x0e], "value is no Protobuf message: wire type 6 at byte 0"),
            (&[0x00], "value is no Protobuf message: field number 0 at byte 0"),
            (&[0x0c], "value is no Protobuf message: group 1 ends before byte 1 but did not start"),
            (&[0x0b, 0x14], "value is no Protobuf message: group 2 ends before byte 2 but did not start"),
            (&[0x0b], "value is truncated: it ends within a number at byte 1"),
            (
                &[0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1],
                "value is no Protobuf message: a varint of more than 64 bits at byte 1",
            ),
        ] {
            assert_eq!(skip(bytes).unwrap_err().to_string(), expected);
        }
        assert_eq!(skip(&[0x0b, 0x13, 0x08, 0x01, 0x14, 0x0c]), Ok(true));
        assert!(skip(&[0x0b; 1000]).unwrap_err().to_string().contains("deeper than 100 levels"));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut wire = Wire::new(&bytes);
            while let Ok((number, wire_type)) = wire.tag() {
                if wire.skip(number, wire_type).is_err() {
                    break;
                }
            }
        }
    }
}
