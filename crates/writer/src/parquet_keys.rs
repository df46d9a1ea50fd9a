//! The keys of Parquet files, and what they make of a [`ParquetFormat`].

use std::sync::Arc;

use model::{Check, Importance, Invalid, Key, Kind, Settings, Width};
use parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;

use crate::format::Format;
use crate::parquet_format::ParquetFormat;

/// Compression of column chunks.
pub const PARQUET_CODEC: Key = Key::new(
    "parquet.codec",
    Kind::String,
    "Compression of Parquet files: none, snappy, gzip, brotli, lz4 (Hadoop framing), zstd or lz4_raw.",
)
.default("snappy")
.check(Check::With(|name| codec(name).map(|_| ())))
.group("Connector", 13)
.shown(Width::Medium, "Parquet Compression Codec");

/// When the rows of an open file are encoded.
pub const PARQUET_ROW_GROUP_BYTES: Key = Key::new(
    "parquet.row.group.bytes",
    Kind::Int,
    "Bytes of memory that rows of one file may take before they are encoded as a row group; 1048576 rows are always one.",
)
.default("67108864")
.check(Check::AtLeast(65_536))
.ours()
.importance(Importance::Low)
.group("Connector", 14)
.shown(Width::Medium, "Parquet Row Group Bytes");

/// Keys of Parquet files.
pub(crate) const KEYS: &[Key] = &[
    PARQUET_CODEC,
    PARQUET_ROW_GROUP_BYTES,
    PARQUET_COMPRESSION_LEVEL,
    PARQUET_DICTIONARY_ENABLED,
    PARQUET_DATA_PAGE_BYTES,
    PARQUET_STATISTICS_ENABLED,
    PARQUET_PAGE_INDEX_ENABLED,
    PARQUET_BLOOM_FILTER_COLUMNS,
    PARQUET_BLOOM_FILTER_FPP,
    PARQUET_BLOOM_FILTER_NDV,
];

/// How hard the codec tries.
pub const PARQUET_COMPRESSION_LEVEL: Key = Key::new(
    "parquet.compression.level",
    Kind::Int,
    "Level of parquet.codec: zstd 1 to 22, gzip 0 to 9, brotli 0 to 11; the codec's default when it is not given. Other \
     codecs have none.",
)
.ours()
.group("Connector", 13)
.shown(Width::Short, "Parquet Compression Level");

/// Whether columns may have dictionaries.
pub const PARQUET_DICTIONARY_ENABLED: Key = Key::new(
    "parquet.dictionary.enabled",
    Kind::Boolean,
    "Whether values that come again are written once and referred to.",
)
.default("true")
.ours()
.group("Connector", 13)
.shown(Width::Short, "Parquet Dictionary");

/// How large pages are.
pub const PARQUET_DATA_PAGE_BYTES: Key =
    Key::new("parquet.data.page.bytes", Kind::Int, "Bytes of encoded values at which a page of a column ends.")
        .default("1048576")
        .check(Check::AtLeast(1_024))
        .ours()
        .group("Connector", 13)
        .shown(Width::Short, "Parquet Data Page Bytes");

/// Whether columns say what lies in them.
pub const PARQUET_STATISTICS_ENABLED: Key = Key::new(
    "parquet.statistics.enabled",
    Kind::Boolean,
    "Whether row groups say the least and the largest value and the number of nulls of each column.",
)
.default("true")
.ours()
.group("Connector", 13)
.shown(Width::Short, "Parquet Statistics");

/// Whether pages can be found.
pub const PARQUET_PAGE_INDEX_ENABLED: Key = Key::new(
    "parquet.page.index.enabled",
    Kind::Boolean,
    "Whether files of 20000 rows or more have an index of their pages, with statistics of each; smaller ones have about one \
     page a column and never have it.",
)
.default("true")
.ours()
.group("Connector", 13)
.shown(Width::Short, "Parquet Page Index");

/// Which columns have Bloom filters.
pub const PARQUET_BLOOM_FILTER_COLUMNS: Key = Key::new(
    "parquet.bloom.filter.columns",
    Kind::List,
    "Columns with a Bloom filter in each row group, for readers that look for one value: paths as Parquet has them, with \
     dots, such as inputs.user_id or tags.list.element. Files without such a column have no filter for it.",
)
.default("")
.ours()
.group("Connector", 13)
.shown(Width::Long, "Parquet Bloom Filter Columns");

/// How often a Bloom filter errs.
pub const PARQUET_BLOOM_FILTER_FPP: Key = Key::new(
    "parquet.bloom.filter.fpp",
    Kind::Double,
    "How often a Bloom filter may say that a value is there which is not: a number between 0 and 1.",
)
.default("0.01")
.check(Check::With(fpp))
.ours()
.group("Connector", 13)
.shown(Width::Short, "Parquet Bloom Filter Fpp");

/// How many values a Bloom filter is made for.
pub const PARQUET_BLOOM_FILTER_NDV: Key = Key::new(
    "parquet.bloom.filter.ndv",
    Kind::Long,
    "Distinct values in a row group that a Bloom filter is made for at most; more values make it err more often. A filter of \
     fewer values is written as small as they allow.",
)
.default("1048576")
.check(Check::Between(1, 1_073_741_824))
.ours()
.group("Connector", 13)
.shown(Width::Short, "Parquet Bloom Filter Ndv");

fn fpp(text: &str) -> Result<(), String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number < 1.0 => Ok(()),
        Ok(_) | Err(_) => Err("Value must be between 0 and 1, exclusive".to_owned()),
    }
}

/// `compression` with another level; the error ends "Invalid value ...: ".
fn with_level(compression: Compression, level: i64) -> Result<Compression, String> {
    let wrong = |error: ParquetError| error.to_string();
    let unsigned = u32::try_from(level).map_err(|_| "Value must be at least 0".to_owned())?;
    match compression {
        Compression::GZIP(_) => GzipLevel::try_new(unsigned).map(Compression::GZIP).map_err(wrong),
        Compression::BROTLI(_) => BrotliLevel::try_new(unsigned).map(Compression::BROTLI).map_err(wrong),
        Compression::ZSTD(_) => {
            ZstdLevel::try_new(i32::try_from(level).unwrap_or(i32::MAX)).map(Compression::ZSTD).map_err(wrong)
        }
        Compression::UNCOMPRESSED
        | Compression::SNAPPY
        | Compression::LZO
        | Compression::LZ4
        | Compression::LZ4_RAW => {
            Err("parquet.codec has no levels: use zstd, gzip or brotli, or leave it out".to_owned())
        }
    }
}

/// The codec and the extension of file names (parquet-java's `CompressionCodecName`).
pub(crate) fn codec(name: &str) -> Result<(Compression, &'static str), String> {
    match name {
        "none" => Ok((Compression::UNCOMPRESSED, ".parquet")),
        "snappy" => Ok((Compression::SNAPPY, ".snappy.parquet")),
        "gzip" => Ok((Compression::GZIP(GzipLevel::default()), ".gz.parquet")),
        "brotli" => Ok((Compression::BROTLI(BrotliLevel::default()), ".br.parquet")),
        "lz4" => Ok((Compression::LZ4, ".lz4hadoop.parquet")),
        "lz4_raw" => Ok((Compression::LZ4_RAW, ".lz4raw.parquet")),
        "zstd" => Ok((Compression::ZSTD(ZstdLevel::default()), ".zstd.parquet")),
        "lzo" => Err("lzo cannot be written by this program: use snappy, zstd or lz4_raw".to_owned()),
        _ => Err("String must be one of: none, snappy, gzip, lzo, brotli, lz4, zstd, lz4_raw".to_owned()),
    }
}

pub(crate) fn check(settings: &Settings) -> Vec<Invalid> {
    // A codec that is wrong by itself is reported by its own key.
    match build(settings) {
        Err(problem)
            if problem.key == PARQUET_COMPRESSION_LEVEL.name
                && settings.problem(&PARQUET_COMPRESSION_LEVEL).is_none() =>
        {
            vec![problem]
        }
        Ok(_) | Err(_) => Vec::new(),
    }
}

pub(crate) fn build(settings: &Settings) -> Result<Arc<dyn Format>, Invalid> {
    let name = settings.required_string(&PARQUET_CODEC)?;
    let (mut compression, extension) = codec(&name).map_err(|why| Invalid::value(&PARQUET_CODEC, &name, why))?;
    if settings.is_set(&PARQUET_COMPRESSION_LEVEL) {
        let level = settings.long(&PARQUET_COMPRESSION_LEVEL)?;
        compression = with_level(compression, level)
            .map_err(|why| Invalid::value(&PARQUET_COMPRESSION_LEVEL, &level.to_string(), why))?;
    }
    let pages = settings.size(&PARQUET_DATA_PAGE_BYTES)?;
    let has_dictionary = settings.boolean(&PARQUET_DICTIONARY_ENABLED)?;
    let has_statistics = settings.boolean(&PARQUET_STATISTICS_ENABLED)?;
    let has_index = settings.boolean(&PARQUET_PAGE_INDEX_ENABLED)?;
    let filters = BloomFilters::new(settings)?;
    let tune = |mut builder: WriterPropertiesBuilder| {
        builder = builder.set_data_page_size_limit(pages).set_dictionary_enabled(has_dictionary);
        if !has_index {
            builder = builder.set_statistics_enabled(EnabledStatistics::Chunk).set_offset_index_disabled(true);
        }
        if !has_statistics {
            builder = builder.set_statistics_enabled(EnabledStatistics::None);
        }
        filters.set_in(builder)
    };
    Ok(Arc::new(ParquetFormat::tuned(compression, extension, tune)))
}

/// What `parquet.bloom.filter.*` say.
struct BloomFilters {
    columns: Vec<ColumnPath>,
    fpp: f64,
    ndv: u64,
}

impl BloomFilters {
    fn new(settings: &Settings) -> Result<BloomFilters, Invalid> {
        let fpp = settings.required_string(&PARQUET_BLOOM_FILTER_FPP)?;
        let path = |name: &String| ColumnPath::new(name.split('.').map(str::to_owned).collect());
        Ok(BloomFilters {
            columns: settings.list(&PARQUET_BLOOM_FILTER_COLUMNS)?.iter().map(path).collect(),
            fpp: fpp
                .parse()
                .map_err(|_| Invalid::value(&PARQUET_BLOOM_FILTER_FPP, &fpp, "Not a number of type DOUBLE"))?,
            ndv: u64::try_from(settings.long(&PARQUET_BLOOM_FILTER_NDV)?).unwrap_or(1),
        })
    }

    fn set_in(&self, builder: WriterPropertiesBuilder) -> WriterPropertiesBuilder {
        self.columns.iter().fold(builder, |builder, column| {
            builder
                .set_column_bloom_filter_enabled(column.clone(), true)
                .set_column_bloom_filter_fpp(column.clone(), self.fpp)
                .set_column_bloom_filter_max_ndv(column.clone(), self.ndv)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{self, nested_rows};
    use crate::testing::settings;
    use bytes::Bytes;
    use model::Values;
    use parquet::file::metadata::ParquetMetaData;
    use parquet::file::properties::ReaderProperties;
    use parquet::file::reader::FileReader;
    use parquet::file::serialized_reader::{ReadOptionsBuilder, SerializedFileReader};

    fn file(pairs: &[(&str, &str)], rows: i64) -> Bytes {
        let format = build(&settings(pairs)).unwrap();
        let file = conformance::encoded(format.as_ref(), &[Values::Typed(nested_rows(0, rows))]);
        assert_eq!(conformance::read_parquet(file.clone()), nested_rows(0, rows));
        file
    }

    fn reader(file: Bytes) -> SerializedFileReader<Bytes> {
        let properties = ReaderProperties::builder().set_read_bloom_filter(true).build();
        let options = ReadOptionsBuilder::new().with_reader_properties(properties).with_page_index().build();
        SerializedFileReader::new_with_options(file, options).unwrap()
    }

    fn has_page_index(metadata: &ParquetMetaData) -> bool {
        let columns = metadata.row_groups().iter().flat_map(|group| group.columns());
        columns.into_iter().any(|column| column.offset_index_offset().is_some())
    }

    fn has_statistics(metadata: &ParquetMetaData) -> bool {
        metadata.row_groups().iter().flat_map(|group| group.columns()).any(|column| column.statistics().is_some())
    }

    #[test]
    fn statistics_and_indexes_of_pages_can_be_left_out() {
        let off = "false";
        for (pairs, rows, statistics, index) in [
            (&[][..], 100, true, false),
            (&[], 30_000, true, true),
            (&[("parquet.page.index.enabled", off)], 30_000, true, false),
            (&[("parquet.statistics.enabled", off)], 100, false, false),
            (&[("parquet.statistics.enabled", off), ("parquet.page.index.enabled", off)], 30_000, false, false),
        ] {
            let reader = reader(file(pairs, rows));
            let found = (has_statistics(reader.metadata()), has_page_index(reader.metadata()));
            assert_eq!(found, (statistics, index), "{pairs:?} {rows}");
        }
    }

    #[test]
    fn bloom_filters_know_what_lies_in_their_columns_and_nothing_else() {
        let plain = file(&[], 1_000).len();
        let pairs =
            [("parquet.bloom.filter.columns", "id, outputs.label, absent"), ("parquet.bloom.filter.fpp", "0.001")];
        let file = file(&pairs, 1_000);
        // Sized by what lies in them, not by the most they are made for.
        assert!(file.len() < plain + 16 * 1024, "{} {plain}", file.len());
        let reader = reader(file);
        let group = reader.get_row_group(0).unwrap();
        let of_column = |path: &str| {
            let columns = group.metadata().columns();
            let place = columns.iter().position(|column| column.column_path().string() == path).unwrap();
            group.get_column_bloom_filter(place)
        };
        let ids = of_column("id").unwrap();
        assert!((0..1_000i64).all(|id| ids.check(&id)));
        let wrong = (1_000..101_000i64).filter(|id| ids.check(id)).count();
        assert!(wrong < 400, "{wrong} of 100000, 100 are allowed on the average");
        assert!(of_column("outputs.label").unwrap().check(&"spam"));
        assert!(of_column("text").is_none());
        for bad in ["0", "1", "x", "-0.5", "NaN"] {
            assert!(
                settings(&[("parquet.bloom.filter.fpp", bad)]).problem(&PARQUET_BLOOM_FILTER_FPP).is_some(),
                "{bad}"
            );
        }
    }

    #[test]
    fn codecs_have_upstreams_extensions_and_lzo_is_refused_with_a_way_out() {
        let extensions: Vec<_> = ["none", "snappy", "gzip", "zstd", "brotli", "lz4", "lz4_raw"]
            .map(|name| ParquetFormat::new(name).unwrap().extension().to_owned())
            .into();
        let known = [
            ".parquet",
            ".snappy.parquet",
            ".gz.parquet",
            ".zstd.parquet",
            ".br.parquet",
            ".lz4hadoop.parquet",
            ".lz4raw.parquet",
        ];
        assert_eq!(extensions, known);
        let codec = |name: &str| settings(&[("parquet.codec", name)]);
        assert!(codec("lzo").problem(&PARQUET_CODEC).unwrap().message.ends_with("use snappy, zstd or lz4_raw"));
        assert_eq!(
            codec("uncompressed").problem(&PARQUET_CODEC).unwrap().message,
            "Invalid value uncompressed for configuration parquet.codec: String must be one of: none, snappy, gzip, lzo, brotli, lz4, zstd, lz4_raw"
        );
    }

    #[test]
    fn levels_pages_and_dictionaries_are_configured() {
        let file = |pairs: &[(&str, &str)]| {
            let format = build(&settings(pairs)).unwrap();
            let file = conformance::encoded(format.as_ref(), &[Values::Typed(nested_rows(0, 30_000))]);
            assert_eq!(conformance::read_parquet(file.clone()), nested_rows(0, 30_000));
            file.len()
        };
        let zstd = ("parquet.codec", "zstd");
        assert!(file(&[zstd, ("parquet.compression.level", "19")]) < file(&[zstd, ("parquet.compression.level", "1")]));
        assert_ne!(file(&[]), file(&[("parquet.dictionary.enabled", "false")]));
        assert!(file(&[]) < file(&[("parquet.data.page.bytes", "1024")]));
        for (codec, level) in [("zstd", "23"), ("gzip", "10"), ("snappy", "1"), ("zstd", "-1")] {
            let problems = check(&settings(&[("parquet.codec", codec), ("parquet.compression.level", level)]));
            assert_eq!(problems[0].key, "parquet.compression.level", "{codec} {level}");
        }
        assert!(check(&settings(&[("parquet.codec", "lzo")])).is_empty());
    }
}
