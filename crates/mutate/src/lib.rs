//! Damaged files by the thousand, for tests: a [`Mutator`] makes them from a seed, a [`Gauntlet`] runs
//! a reader over them in child processes and says how often it crashed, hung or ate memory.
//!
//! Everything is a function of the seed, so that a case that fails is found again by its number.

mod gauntlet;

pub use crate::gauntlet::{Gauntlet, Outcome, count};

/// Numbers at which readers of lengths, offsets and counts go wrong.
const LENGTHS: [u64; 20] = [
    0,
    1,
    2,
    7,
    8,
    127,
    128,
    255,
    256,
    0x7fff,
    0xffff,
    0x10000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    1 << 40,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// Replacements for a number in a text.
const NUMBERS: [&str; 22] = [
    "0",
    "-0",
    "-1",
    "1",
    "2",
    "1.5",
    "1e5",
    "1e400",
    "-1e-400",
    "0.1e1",
    "NaN",
    "Infinity",
    "-Infinity",
    "null",
    "true",
    "\"1\"",
    "2147483648",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551616",
    "99999999999999999999999999999999999999999999999999",
];

/// Bytes that are no text, or text of another kind than it looks.
const ENCODINGS: [&[u8]; 16] = [
    b"\xff",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xe9",
    b"\x80",
    b"\0",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\xfe\xff",
    b"\\ud83d",
    b"\\u0000",
    b"\\ude00\\ud83d",
    b"\r",
    b"\xe2\x80\xae",
    b"\x1b[2J",
];

/// Makes damaged copies of a file.
#[derive(Debug, Clone)]
pub struct Mutator {
    state: u64,
    dictionary: &'static [&'static str],
}

impl Mutator {
    /// The mutator of case `seed`; `dictionary` holds words that mean something in the format.
    pub fn new(seed: u64, dictionary: &'static [&'static str]) -> Self {
        Self {
            // Neighbouring seeds are to have nothing in common, and zero would stay zero.
            state: (seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xd134_2543_de82_ef95) | 1,
            dictionary,
        }
    }

    /// A number below `below`, or 0 where that is 0 (Marsaglia's xorshift64).
    pub fn below(&mut self, below: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 11) as usize % below.max(1)
    }

    /// A copy with one to four kinds of damage; `other` is a file of the same format to splice from.
    pub fn mutate(&mut self, whole: &[u8], other: &[u8]) -> Vec<u8> {
        let mut bytes = whole.to_vec();
        for _ in 0..=self.below(4) {
            self.damage(&mut bytes, other);
        }
        bytes
    }

    fn damage(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(bytes.len());
        let length = 1 + match self.below(4) {
            0 => self.below(2),
            1 | 2 => self.below(32),
            _ => self.below(bytes.len() / 2),
        };
        let end = bytes.len().min(at + length);
        match self.below(20) {
            0..=2 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            3 if at < bytes.len() => {
                bytes[at] = self.pick(&[0, 0xff, 0x7f, 0x80, b'"', b',', b'\n'])
            }
            4 => bytes[at..end].fill(self.pick(&[0, 0xff, b' ', b'['])),
            5 => bytes.truncate(at),
            6 => drop(bytes.drain(at..end)),
            7 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            8 => {
                let from = self.below(other.len());
                let to = other.len().min(from + length);
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            9..=11 => self.edit_length(bytes, at),
            12 | 13 => self.replace_number(bytes, at),
            14 => self.duplicate_member(bytes, at),
            15 => self.nest(bytes, at),
            16 => {
                let wrong = self.pick(&ENCODINGS);
                let end = if self.below(2) == 0 {
                    at
                } else {
                    end.min(at + wrong.len())
                };
                bytes.splice(at..end, wrong.iter().copied());
            }
            17 if self.below(8) == 0 => *bytes = self.reencode(bytes),
            17 | 18 if !self.dictionary.is_empty() => {
                let word = self.pick(self.dictionary).as_bytes();
                let (start, end) = word_around(bytes, at);
                let range = if self.below(3) == 0 {
                    at..at
                } else {
                    start..end
                };
                bytes.splice(range, word.iter().copied());
            }
            _ => {
                let to = self.below(bytes.len());
                let moved: Vec<u8> = bytes.drain(at..end).collect();
                let to = to.min(bytes.len());
                bytes.splice(to..to, moved);
            }
        }
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// Writes a number over 1, 2, 4 or 8 bytes, or as a varint; often over the first or last bytes,
    /// where formats keep their lengths.
    fn edit_length(&mut self, bytes: &mut Vec<u8>, at: usize) {
        let width = self.pick(&[1, 2, 4, 8]);
        let at = match self.below(4) {
            0 => 0,
            1 => bytes.len().saturating_sub(8),
            _ => at,
        };
        let number = match self.below(3) {
            0 => (bytes.len() as u64)
                .wrapping_add(self.below(17) as u64)
                .wrapping_sub(8),
            _ => self.pick(&LENGTHS),
        };
        let mut written = number.to_le_bytes()[..width].to_vec();
        if self.below(4) == 0 {
            written.clear();
            let mut rest = number;
            while rest >= 0x80 {
                written.push(rest as u8 | 0x80);
                rest >>= 7;
            }
            written.push(rest as u8);
        }
        let end = bytes.len().min(at + written.len());
        bytes.splice(at..end, written);
    }

    /// Replaces the number in a text that comes next after `at`.
    fn replace_number(&mut self, bytes: &mut Vec<u8>, at: usize) {
        let Some(start) = bytes[at..].iter().position(u8::is_ascii_digit) else {
            return;
        };
        let start = at + start;
        let is_part = |byte: &u8| byte.is_ascii_digit() || b".eE+-".contains(byte);
        let length = bytes[start..].iter().position(|byte| !is_part(byte));
        let end = length.map_or(bytes.len(), |length| start + length);
        let number = self.pick(&NUMBERS);
        bytes.splice(start..end, number.bytes());
    }

    /// Copies what stands between two commas or line ends: in JSON a key is there twice then, in
    /// CSV a field or row.
    fn duplicate_member(&mut self, bytes: &mut Vec<u8>, at: usize) {
        let separator = self.pick(b",\n}");
        let ends = |bytes: &[u8]| bytes.iter().position(|byte| *byte == separator);
        let Some(start) = ends(&bytes[at..]).map(|i| at + i) else {
            return;
        };
        let Some(end) = ends(&bytes[start + 1..]).map(|i| start + 1 + i) else {
            return;
        };
        let mut member = bytes[start..end].to_vec();
        if self.below(2) == 0 {
            let i = self.below(member.len());
            self.replace_number(&mut member, i);
        }
        bytes.splice(end..end, member);
    }

    /// Puts up to 100,000 brackets in, closed again half of the time.
    fn nest(&mut self, bytes: &mut Vec<u8>, at: usize) {
        let depth = self.pick(&[1, 10, 127, 128, 129, 1000, 100_000]);
        let (open, close) = self.pick(&[("[", "]"), ("{\"a\":", "}"), ("(", ")")]);
        let mut nested = open.repeat(depth);
        nested.push('1');
        if self.below(2) == 0 {
            nested += &close.repeat(depth);
        }
        let (start, end) = word_around(bytes, at);
        let range = if self.below(2) == 0 {
            at..at
        } else {
            start..end
        };
        bytes.splice(range, nested.into_bytes());
    }

    /// The whole file as UTF-16 or Latin-1, or with a byte order mark.
    fn reencode(&mut self, bytes: &[u8]) -> Vec<u8> {
        let text = String::from_utf8_lossy(bytes);
        match self.below(4) {
            0 => text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
            1 => [0xfeff]
                .into_iter()
                .chain(text.encode_utf16())
                .flat_map(u16::to_be_bytes)
                .collect(),
            2 => text.chars().map(|c| c as u8).collect(),
            _ => [b"\xef\xbb\xbf", bytes].concat(),
        }
    }
}

/// The run of letters, digits and the like in which `at` lies, with the quotes around it.
fn word_around(bytes: &[u8], at: usize) -> (usize, usize) {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"\"_.-".contains(byte);
    let before = bytes[..at]
        .iter()
        .rev()
        .take_while(|byte| is_part(byte))
        .count();
    let after = bytes[at..].iter().take_while(|byte| is_part(byte)).count();
    (at - before, at + after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_file_again_and_others_give_others() {
        let whole = br#"{"a": 12, "b": [1, 2, {"c": "text"}], "d": null}"#;
        let file = |seed| Mutator::new(seed, &["\"a\"", "1e9"]).mutate(whole, whole);
        let files: std::collections::BTreeSet<Vec<u8>> = (0..1000).map(file).collect();
        assert!(files.len() > 900, "only {} of 1000 differ", files.len());
        assert!((0..100).all(|seed| file(seed) == file(seed)));
    }

    #[test]
    fn no_file_is_too_small_to_be_damaged() {
        for whole in [b"".as_slice(), b"1", b"ab", b"\n,"] {
            for seed in 0..5000 {
                Mutator::new(seed, &["word"]).mutate(whole, whole);
                Mutator::new(seed, &[]).mutate(whole, b"");
            }
        }
    }
}
