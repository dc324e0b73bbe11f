//! What a Vorbis file's codebooks would take in memory, told before a decoder makes them.
//!
//! A codebook is a few bytes of a header and, made, up to 16 MiB in the decoder; a file may have 256 of them. Encoders make
//! fewer than 200,000 values altogether. The header is that of the Vorbis I specification, sections 3.2.1 and 4.2.4.

/// Values and code words of all codebooks that are made at most: 16 MiB of values.
pub(crate) const CODEBOOK_VALUES_MAX: u64 = 4 * 1024 * 1024;

/// Bytes of the identification header, which the setup header follows in a decoder's extra data.
const IDENTIFICATION_BYTES: usize = 30;

/// Type and signature that a setup header begins with.
const SETUP: &[u8] = b"\x05vorbis";

/// What every codebook begins with.
const SYNC: u32 = 0x56_43_42;

/// Values and code words of the codebooks in a decoder's extra data, as far as it can be read. What cannot be read the
/// decoder refuses.
pub(crate) fn codebook_values(extra_data: &[u8]) -> u64 {
    let setup = extra_data.get(IDENTIFICATION_BYTES..).and_then(|rest| rest.strip_prefix(SETUP));
    let mut bits = Bits { bytes: setup.unwrap_or_default(), at: 0 };
    let books = bits.read(8).map_or(0, |books| books + 1);
    let (mut values, mut read) = (0, 0);
    // The sum so far is enough to refuse a file; the rest of its header would only take time.
    while read < books && values <= CODEBOOK_VALUES_MAX {
        match codebook(&mut bits) {
            Some(more) => values += more,
            None => break,
        }
        read += 1;
    }
    values
}

/// Values and code words of one codebook; `None` where the header ends or is wrong.
fn codebook(bits: &mut Bits<'_>) -> Option<u64> {
    if bits.read(24)? != SYNC {
        return None;
    }
    let (dimensions, entries) = (bits.read(16)?, bits.read(24)?);
    let is_ordered = bits.flag()?;
    if is_ordered {
        skip_ordered_lengths(bits, entries)?;
    } else if bits.flag()? {
        for _ in 0..entries {
            if bits.flag()? {
                bits.skip(5)?;
            }
        }
    } else {
        bits.skip(5 * u64::from(entries))?;
    }
    let values = u64::from(entries) * u64::from(dimensions);
    let lookup_values = match bits.read(4)? {
        0 => return Some(u64::from(entries)),
        1 => u64::from(root(entries, dimensions)),
        _ => values,
    };
    bits.skip(64)?;
    let value_bits = u64::from(bits.read(4)? + 1);
    bits.skip(1)?;
    bits.skip(value_bits * lookup_values)?;
    Some(values + u64::from(entries))
}

/// Numbers of code words of each length, until all have one.
fn skip_ordered_lengths(bits: &mut Bits<'_>, entries: u32) -> Option<()> {
    bits.skip(5)?;
    let mut left = entries;
    while left > 0 {
        let width = u32::BITS - left.leading_zeros();
        left = left.checked_sub(bits.read(width)?)?;
    }
    Some(())
}

/// The largest number whose power of `dimensions` is at most `entries` (`lookup1_values` of the specification).
fn root(entries: u32, dimensions: u32) -> u32 {
    let fits = |value: &u32| value.checked_pow(dimensions).is_some_and(|power| power <= entries);
    if dimensions == 0 { 0 } else { (1..=entries).take_while(fits).last().unwrap_or(0) }
}

/// Bits of a header, the lowest of each byte first.
struct Bits<'a> {
    bytes: &'a [u8],
    at: u64,
}

impl Bits<'_> {
    fn flag(&mut self) -> Option<bool> {
        let byte = self.bytes.get(usize::try_from(self.at / 8).ok()?)?;
        let bit = byte >> (self.at % 8) & 1;
        self.at += 1;
        Some(bit == 1)
    }

    fn read(&mut self, width: u32) -> Option<u32> {
        (0..width).try_fold(0, |number, bit| Some(number | u32::from(self.flag()?) << bit))
    }

    fn skip(&mut self, width: u64) -> Option<()> {
        self.at = self.at.checked_add(width)?;
        (self.at <= self.bytes.len() as u64 * 8).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of so many codebooks, each of 2^17 entries and 16 dimensions in a few bytes.
    fn extra_data(books: u32) -> Vec<u8> {
        let mut bits: Vec<bool> = Vec::new();
        let mut write = |number: u64, width: u32| bits.extend((0..width).map(|bit| number >> bit & 1 == 1));
        write(u64::from(books - 1), 8);
        for _ in 0..books {
            write(u64::from(SYNC), 24);
            write(16, 16);
            write(1 << 17, 24);
            write(1, 1);
            write(16, 5);
            write(1 << 17, 18);
            write(1, 4);
            write(0, 64);
            write(0, 4);
            write(0, 1);
            write(0, 2);
        }
        let bytes =
            bits.chunks(8).map(|bits| bits.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit)));
        [vec![0; IDENTIFICATION_BYTES], SETUP.to_vec(), bytes.collect()].concat()
    }

    #[test]
    fn small_headers_with_large_books_are_told() {
        let one = (1 << 17) * 17;
        assert_eq!(codebook_values(&extra_data(1)), one);
        let many = extra_data(256);
        assert!(many.len() < 6_000 && codebook_values(&many) > CODEBOOK_VALUES_MAX);
        assert_eq!(codebook_values(&many[..60]), one);
        assert_eq!((codebook_values(b""), codebook_values(&[5; 100])), (0, 0));
    }

    #[test]
    fn a_file_of_such_books_is_refused() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/decode/large_codebooks.ogg");
        let error = crate::decode::decode(&std::fs::read(file).unwrap()).unwrap_err().to_string();
        assert!(error.starts_with("the file has codebook values 4456448"), "{error}");
    }

    #[test]
    fn roots_are_whole() {
        assert_eq!([root(81, 4), root(80, 4), root(1 << 17, 32), root(7, 1), root(7, 0)], [3, 2, 1, 7, 0]);
    }
}
