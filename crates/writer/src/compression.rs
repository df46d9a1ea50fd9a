//! Bytes of files that are lines of text, as they are or gzipped; the bytes do not depend on how they were written.

use std::io::Write;
use std::mem;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use model::{Check, Invalid, Key, Kind, Settings, Width};

/// Whether files of lines are compressed.
pub const S3_COMPRESSION_TYPE: Key = Key::new(
    "s3.compression.type",
    Kind::String,
    "Compression of whole JSON and bytes files: none or gzip, which adds .gz to their names. Parquet and Avro have codecs of \
     their own.",
)
.default("none")
.check(Check::OneOf(&["none", "gzip"]))
.group("S3", 15)
.shown(Width::Long, "Compression type");

/// How hard gzip tries.
pub const S3_COMPRESSION_LEVEL: Key = Key::new(
    "s3.compression.level",
    Kind::Int,
    "Level of gzip for JSON and bytes files: 0 stores, 1 is fast, 9 is small, -1 is gzip's default (6).",
)
.default("-1")
.check(Check::Between(-1, 9))
.group("S3", 16)
.shown(Width::Long, "Compression Level");

/// Keys of compressed files of lines.
pub(crate) const KEYS: &[Key] = &[S3_COMPRESSION_TYPE, S3_COMPRESSION_LEVEL];

/// Bytes that are compressed at once. Always the same, so that the compressor never learns how the bytes came.
const CHUNK_BYTES: usize = 32 * 1024;

/// What one gzip compressor takes: window, tables, and what waits for output.
const GZIP_BYTES: usize = 320 * 1024;

/// How files of lines are compressed as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LineCompression {
    /// Not at all.
    None,
    /// By gzip.
    Gzip(Compression),
}

impl LineCompression {
    pub(crate) fn new(settings: &Settings) -> Result<LineCompression, Invalid> {
        if settings.required_string(&S3_COMPRESSION_TYPE)? != "gzip" {
            return Ok(LineCompression::None);
        }
        let level = settings.long(&S3_COMPRESSION_LEVEL)?;
        Ok(LineCompression::Gzip(u32::try_from(level).map_or(Compression::default(), Compression::new)))
    }

    /// What the names of such files end in, after the format's own extension.
    pub(crate) fn extension(self) -> &'static str {
        match self {
            LineCompression::None => "",
            LineCompression::Gzip(_) => ".gz",
        }
    }
}

/// A file of lines that is being written.
#[derive(Debug)]
pub(crate) struct LineFile {
    /// Written, not compressed yet.
    lines: Vec<u8>,
    gzip: Option<GzEncoder<Vec<u8>>>,
}

impl LineFile {
    pub(crate) fn new(compression: LineCompression) -> LineFile {
        let gzip = match compression {
            LineCompression::None => None,
            // Neither a time nor a name in its header.
            LineCompression::Gzip(level) => Some(GzEncoder::new(Vec::new(), level)),
        };
        LineFile { lines: Vec::new(), gzip }
    }

    /// Where the next lines go; followed by [`Self::compress`] after each larger piece.
    pub(crate) fn lines(&mut self) -> &mut Vec<u8> {
        &mut self.lines
    }

    /// Compresses the whole chunks of what was written.
    pub(crate) fn compress(&mut self) -> Result<(), String> {
        let Some(gzip) = &mut self.gzip else { return Ok(()) };
        let whole = self.lines.len() - self.lines.len() % CHUNK_BYTES;
        for chunk in self.lines[..whole].chunks(CHUNK_BYTES) {
            gzip.write_all(chunk).map_err(|error| format!("gzip failed: {error}"))?;
        }
        self.lines.drain(..whole);
        Ok(())
    }

    pub(crate) fn held_bytes(&self) -> usize {
        let compressor = self.gzip.as_ref().map_or(0, |gzip| GZIP_BYTES + gzip.get_ref().len());
        self.lines.len() + compressor
    }

    /// The bytes of the file since the last call.
    pub(crate) fn take(&mut self) -> Result<Bytes, String> {
        self.compress()?;
        Ok(match &mut self.gzip {
            None => Bytes::from(mem::take(&mut self.lines)),
            Some(gzip) => Bytes::from(mem::take(gzip.get_mut())),
        })
    }

    /// The last bytes of the file.
    pub(crate) fn finish(&mut self) -> Result<Bytes, String> {
        self.compress()?;
        match self.gzip.take() {
            None => Ok(Bytes::from(mem::take(&mut self.lines))),
            Some(mut gzip) => {
                let last = mem::take(&mut self.lines);
                let end = gzip.write_all(&last).and_then(|()| gzip.finish());
                end.map(Bytes::from).map_err(|error| format!("gzip failed: {error}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::settings;
    use proptest::prelude::*;
    use std::io::Read;

    fn written(compression: LineCompression, text: &[u8], mut pieces: impl Iterator<Item = usize>) -> Vec<u8> {
        let (mut file, mut rest, mut out) = (LineFile::new(compression), text, Vec::new());
        while let (false, Some(piece)) = (rest.is_empty(), pieces.next()) {
            let (head, tail) = rest.split_at(piece.min(rest.len()));
            file.lines().extend_from_slice(head);
            if piece % 2 == 0 {
                out.extend_from_slice(&file.take().unwrap());
            }
            rest = tail;
        }
        out.extend_from_slice(&file.finish().unwrap());
        out
    }

    #[test]
    fn settings_choose_gzip_and_its_level() {
        let new = |pairs: &[(&str, &str)]| LineCompression::new(&settings(pairs)).unwrap();
        assert_eq!(new(&[]), LineCompression::None);
        let gzip = ("s3.compression.type", "gzip");
        assert_eq!(new(&[gzip]), LineCompression::Gzip(Compression::new(6)));
        assert_eq!(new(&[gzip, ("s3.compression.level", "9")]), LineCompression::Gzip(Compression::new(9)));
        assert!(LineCompression::new(&settings(&[gzip, ("s3.compression.level", "10")])).is_err());
        assert_eq!((new(&[]).extension(), new(&[gzip]).extension()), ("", ".gz"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn bytes_do_not_depend_on_how_they_were_written_and_come_back(
            pieces in prop::collection::vec(1usize..40_000, 1..20),
            level in 0u32..=9,
        ) {
            let text: Vec<u8> = (0..200_000u32).flat_map(|n| format!("{}\n", n * n % 7919).into_bytes()).take(200_000).collect();
            let gzip = LineCompression::Gzip(Compression::new(level));
            let whole = written(gzip, &text, std::iter::once(text.len()));
            prop_assert_eq!(&whole[4..8], &[0, 0, 0, 0], "no time in the header");
            prop_assert_eq!(&written(gzip, &text, pieces.iter().copied().cycle()), &whole);
            let mut back = Vec::new();
            flate2::read::GzDecoder::new(whole.as_slice()).read_to_end(&mut back).unwrap();
            prop_assert_eq!(&back, &text);
            prop_assert_eq!(&written(LineCompression::None, &text, pieces.iter().copied().cycle()), &text);
        }
    }
}
