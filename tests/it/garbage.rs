//! What comes from outside may be anything. `make fuzz` searches further, from the same samples.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use e2e::outside::READERS;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Spoilt copies of each sample; `make proof` reads a hundred times as many.
const COPIES: usize = 300;

fn samples(reader: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![tests.join("fuzz/seeds").join(reader)];
    if reader == "feed_file" {
        folders.push(tests.join("fixtures/feeds"));
    }
    let files = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten();
    let mut paths: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// One of the usual accidents: a byte, a gap, a stretch twice, an end, a number, a piece of another sample.
fn spoil(bytes: &mut Vec<u8>, other: &[u8], dice: &mut ChaCha8Rng) {
    const NUMBERS: [&str; 8] =
        ["-1", "0", "4294967296", "18446744073709551616", "1e400", "NaN", "null", "[[[["];
    let at = dice.random_range(0..=bytes.len());
    let to = (at + dice.random_range(0..32)).min(bytes.len());
    match dice.random_range(0..7) {
        0 if at < bytes.len() => bytes[at] = dice.random(),
        1 => drop(bytes.drain(at..to)),
        2 => {
            let again = bytes[at..to].to_vec();
            bytes.splice(at..at, again);
        }
        3 => bytes.truncate(at),
        4 => drop(bytes.splice(at..to, NUMBERS[dice.random_range(0..NUMBERS.len())].bytes())),
        5 => {
            let from = dice.random_range(0..=other.len());
            bytes.splice(at..to, other[from..(from + 64).min(other.len())].iter().copied());
        }
        _ => bytes.insert(at, [0, b'"', b'\\', b'{', 0xff, b'\n'][dice.random_range(0..6)]),
    }
}

#[test]
fn no_reader_of_outside_bytes_panics_or_believes_what_is_spoilt() {
    for (name, read) in READERS {
        let samples = samples(name);
        assert!(samples.len() >= 2, "{name} has no samples");
        for (path, sample) in &samples {
            read(sample);
            for copy in 0..e2e::size(COPIES, COPIES * 100) {
                let mut dice = ChaCha8Rng::seed_from_u64(copy as u64);
                let mut bytes = sample.clone();
                let (_, other) = &samples[copy % samples.len()];
                for _ in 0..dice.random_range(1..6) {
                    spoil(&mut bytes, other, &mut dice);
                }
                let outcome = catch_unwind(AssertUnwindSafe(|| read(&bytes)));
                assert!(
                    outcome.is_ok(),
                    "{name}, copy {copy} of {}: {:?}",
                    path.display(),
                    String::from_utf8_lossy(&bytes)
                );
            }
        }
    }
}

#[test]
fn a_reader_that_panics_is_noticed() {
    let trusting = |bytes: &[u8]| assert!(serde_json::from_slice::<serde_json::Value>(bytes).is_ok());
    let (_, sample) = samples("token").into_iter().find(|(path, _)| path.ends_with("claims")).unwrap();
    trusting(&sample);
    let noticed = (0..COPIES).any(|copy| {
        let mut dice = ChaCha8Rng::seed_from_u64(copy as u64);
        let mut bytes = sample.clone();
        spoil(&mut bytes, &sample, &mut dice);
        catch_unwind(AssertUnwindSafe(|| trusting(&bytes))).is_err()
    });
    assert!(noticed, "nothing of what is spoilt here would make a careless reader panic");
}
