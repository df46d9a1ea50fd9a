//! The `.proto` files that a schema may import without registering them: those that Confluent's serializers and registry
//! bring along. `google/protobuf/*` comes with protox.

/// The text of a file that everybody has.
pub(crate) fn known_file(name: &str) -> Option<String> {
    if let Some((_, text)) = CONFLUENT.iter().find(|(known, _)| *known == name) {
        return Some((*text).to_owned());
    }
    let (_, imports, body) =
        GOOGLE_TYPES.iter().find(|(known, _, _)| Some(*known) == name.strip_prefix("google/type/"))?;
    let imports: String = imports.iter().map(|import| format!("import \"{import}\";")).collect();
    Some(format!("syntax = \"proto3\"; package google.type; {imports} {body}"))
}

const CONFLUENT: &[(&str, &str)] = &[
    (
        "confluent/meta.proto",
        "syntax = \"proto3\"; package confluent; import \"google/protobuf/descriptor.proto\";
         message Meta { string doc = 1; map<string, string> params = 2; repeated string tags = 3; repeated Rule rules = 4; }
         message Rule { string name = 1; string doc = 2; string expr = 3; string sql = 4; }
         extend google.protobuf.FileOptions { Meta file_meta = 1088; }
         extend google.protobuf.MessageOptions { Meta message_meta = 1088; }
         extend google.protobuf.FieldOptions { Meta field_meta = 1088; }
         extend google.protobuf.EnumOptions { Meta enum_meta = 1088; }
         extend google.protobuf.EnumValueOptions { Meta enum_value_meta = 1088; }",
    ),
    (
        "confluent/type/decimal.proto",
        "syntax = \"proto3\"; package confluent.type; message Decimal { bytes value = 1; uint32 precision = 2; int32 scale = 3; }",
    ),
    (
        "confluent/type/variant.proto",
        "syntax = \"proto3\"; package confluent.type; message Variant { bytes metadata = 1; bytes value = 2; }",
    ),
];

/// Name below `google/type/`, imports, and what is in the file.
const GOOGLE_TYPES: &[(&str, &[&str], &str)] = &[
    (
        "calendar_period.proto",
        &[],
        "enum CalendarPeriod { CALENDAR_PERIOD_UNSPECIFIED = 0; DAY = 1; WEEK = 2; FORTNIGHT = 3; MONTH = 4; QUARTER = 5; \
         HALF = 6; YEAR = 7; }",
    ),
    (
        "color.proto",
        &["google/protobuf/wrappers.proto"],
        "message Color { float red = 1; float green = 2; float blue = 3; google.protobuf.FloatValue alpha = 4; }",
    ),
    ("date.proto", &[], "message Date { int32 year = 1; int32 month = 2; int32 day = 3; }"),
    (
        "datetime.proto",
        &["google/protobuf/duration.proto"],
        "message DateTime { int32 year = 1; int32 month = 2; int32 day = 3; int32 hours = 4; int32 minutes = 5; \
         int32 seconds = 6; int32 nanos = 7; \
         oneof time_offset { google.protobuf.Duration utc_offset = 8; TimeZone time_zone = 9; } } \
         message TimeZone { string id = 1; string version = 2; }",
    ),
    (
        "dayofweek.proto",
        &[],
        "enum DayOfWeek { DAY_OF_WEEK_UNSPECIFIED = 0; MONDAY = 1; TUESDAY = 2; WEDNESDAY = 3; THURSDAY = 4; FRIDAY = 5; \
         SATURDAY = 6; SUNDAY = 7; }",
    ),
    ("decimal.proto", &[], "message Decimal { string value = 1; }"),
    (
        "expr.proto",
        &[],
        "message Expr { string expression = 1; string title = 2; string description = 3; string location = 4; }",
    ),
    ("fraction.proto", &[], "message Fraction { int64 numerator = 1; int64 denominator = 2; }"),
    (
        "interval.proto",
        &["google/protobuf/timestamp.proto"],
        "message Interval { google.protobuf.Timestamp start_time = 1; google.protobuf.Timestamp end_time = 2; }",
    ),
    ("latlng.proto", &[], "message LatLng { double latitude = 1; double longitude = 2; }"),
    ("localized_text.proto", &[], "message LocalizedText { string text = 1; string language_code = 2; }"),
    ("money.proto", &[], "message Money { string currency_code = 1; int64 units = 2; int32 nanos = 3; }"),
    (
        "month.proto",
        &[],
        "enum Month { MONTH_UNSPECIFIED = 0; JANUARY = 1; FEBRUARY = 2; MARCH = 3; APRIL = 4; MAY = 5; JUNE = 6; JULY = 7; \
         AUGUST = 8; SEPTEMBER = 9; OCTOBER = 10; NOVEMBER = 11; DECEMBER = 12; }",
    ),
    (
        "phone_number.proto",
        &[],
        "message PhoneNumber { message ShortCode { string region_code = 1; string number = 2; } \
         oneof kind { string e164_number = 1; ShortCode short_code = 2; } string extension = 3; }",
    ),
    (
        "postal_address.proto",
        &[],
        "message PostalAddress { int32 revision = 1; string region_code = 2; string language_code = 3; \
         string postal_code = 4; string sorting_code = 5; string administrative_area = 6; string locality = 7; \
         string sublocality = 8; repeated string address_lines = 9; repeated string recipients = 10; \
         string organization = 11; }",
    ),
    ("quaternion.proto", &[], "message Quaternion { double x = 1; double y = 2; double z = 3; double w = 4; }"),
    (
        "timeofday.proto",
        &[],
        "message TimeOfDay { int32 hours = 1; int32 minutes = 2; int32 seconds = 3; int32 nanos = 4; }",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_file_compiles() {
        let google = GOOGLE_TYPES.iter().map(|(name, _, _)| format!("google/type/{name}"));
        let confluent = CONFLUENT.iter().map(|(name, _)| (*name).to_owned());
        for name in google.chain(confluent) {
            let text = format!("syntax = \"proto3\"; import \"{name}\"; message M {{}}");
            crate::protobuf_schema::compile(&text, &[]).unwrap_or_else(|why| panic!("{name}: {why}"));
        }
        assert_eq!(known_file("google/type/none.proto"), None);
    }
}
