//! Predictions as texts, for benchmarks of this crate and of others.

use std::fmt::Write;

/// Predictions as a model server publishes them, some without an age, few with a region.
pub(crate) fn predictions(count: u64) -> Vec<String> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..count)
        .map(|_| {
            let (a, b, dice) = (random(), random(), random());
            let mut text = String::new();
            let _ = write!(
                text,
                "{{\"id\": \"{:08x}-{:04x}-{:04x}-{:04x}-{:012x}\", \"model_name\": \"insurance\", \
                 \"model_version\": \"1.2.0\", \"inputs\": {{\"age\": ",
                a >> 32,
                a >> 16 & 0xffff,
                a & 0xffff,
                b >> 48,
                b & 0xffff_ffff_ffff
            );
            let _ = if dice % 20 == 0 { write!(text, "null") } else { write!(text, "{}", 18 + dice % 70) };
            let _ = write!(text, ", \"previously_insured\": {}", dice & 1 == 0);
            if dice % 10 == 0 {
                text.push_str(", \"region\": \"north\"");
            }
            let confidence = (random() % 1_000_000) as f64 / 1e6;
            let _ = write!(
                text,
                "}}, \"outputs\": {{\"will_buy_insurance\": {}, \"confidence\": {confidence}}}}}",
                dice & 2 == 0
            );
            text
        })
        .collect()
}
