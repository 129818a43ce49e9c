use proptest::prelude::*;

use super::*;

/// From runs of offsets: not done, done, not done…
fn map(runs: &[usize]) -> Beyond {
    let mut beyond = Beyond::new();
    for (index, run) in runs.iter().enumerate() {
        beyond.push(index % 2 == 1, *run);
    }
    beyond.truncate(beyond.len());
    beyond
}

/// Rows recorded from Parallel Consumer: format, runs, metadata.
fn recorded() -> Vec<(&'static str, Vec<usize>, &'static str)> {
    let rows = include_str!("fixtures/parallel-consumer.tsv").lines().filter(|line| !line.starts_with('#'));
    rows.map(|row| {
        let mut fields = row.split('\t');
        let (name, runs, metadata) = (fields.next().unwrap(), fields.next().unwrap(), fields.next().unwrap());
        (name, runs.split(',').filter_map(|run| run.parse().ok()).collect(), metadata)
    })
    .collect()
}

#[test]
fn what_parallel_consumer_wrote_is_read() {
    let rows = recorded();
    assert!(rows.len() > 50);
    for (name, runs, metadata) in rows {
        assert_eq!(decode(metadata), Ok(map(&runs)), "{name} of {runs:?}");
    }
}

#[test]
fn plain_formats_are_written_as_parallel_consumer_writes_them() {
    for (name, runs, metadata) in recorded().iter().filter(|row| !row.0.ends_with("Compressed") && !row.1.is_empty()) {
        let magic = BASE64.decode(metadata).unwrap()[0];
        let format = FORMATS.iter().find(|format| format.magic == magic && !format.compressed);
        if let Some(format) = format {
            assert_eq!(BASE64.encode(packed(format, &map(runs))), *metadata, "{name} of {runs:?}");
        }
    }
}

#[test]
fn nothing_written_is_longer_than_what_parallel_consumer_chose() {
    for (_, runs, metadata) in recorded().iter().filter(|row| row.0 == "chosen") {
        let ours = encode(&map(runs), MOST_CHARACTERS).unwrap();
        assert!(ours.len() <= metadata.len(), "{ours} is longer than {metadata}");
    }
}

#[test]
fn what_is_no_map_says_what_it_is() {
    let huge = "A".repeat(LONGEST_READ + 4);
    let cases = [
        ("", Ok(Beyond::new())),
        ("worker-7 committed this", Err(MetadataError::NotBase64)),
        ("é", Err(MetadataError::NotBase64)),
        ("AQAAAYzLxo8A", Err(MetadataError::KafkaStreams)),
        ("AgAAAYzLxo8A", Err(MetadataError::KafkaStreams)),
        ("hello+world+", Err(MetadataError::Unknown(0x85))),
        ("bw==", Err(MetadataError::Damaged("it ends before its length"))),
        ("bwAAAIAA", Err(MetadataError::Damaged("it has fewer bits than it says"))),
        ("b/////8A", Err(MetadataError::Damaged("a length is negative"))),
        ("ZQAAAAEA", Err(MetadataError::Damaged("it ends within a run's length"))),
        ("c2Nvcm4=", Err(MetadataError::Damaged("it does not decompress"))),
        (huge.as_str(), Err(MetadataError::TooLong(LONGEST_READ + 4))),
    ];
    for (metadata, expected) in cases {
        assert_eq!(decode(metadata), expected, "{}", &metadata[..metadata.len().min(20)]);
    }
}

#[test]
fn older_maps_that_go_on_to_the_last_offset_seen_end_at_the_last_done_one() {
    assert_eq!(decode("ZQAAAAEAAAACAAAAAw==").unwrap(), map(&[1, 2]));
    assert_eq!(decode("ZQAAAAF/////f////w==").unwrap().len(), MOST_OFFSETS, "a run is cut at the end of what is kept");
    assert_eq!(decode("ZX////8AAAAB").unwrap(), Beyond::new(), "what is done beyond the end of what is kept is not known");
}

#[test]
fn a_map_that_grows_beyond_all_bounds_when_decompressed_is_refused() {
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 19).unwrap();
    let mut bytes = vec![b's'];
    bytes.extend(bomb);
    assert!(bytes.len() < 10_000);
    assert!(matches!(decode(&BASE64.encode(bytes)), Err(MetadataError::Damaged(_))));
}

fn runs() -> impl Strategy<Value = Vec<usize>> {
    let run = prop_oneof![8 => 1_usize..4, 4 => 1_usize..100, 1 => 1_usize..20_000];
    (0_usize..3, prop::collection::vec(run, 0..60)).prop_map(|(first, rest)| [first].into_iter().chain(rest).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn every_format_reads_what_it_wrote(runs in runs()) {
        let map = map(&runs);
        for format in &FORMATS {
            let fits = match format.layout {
                Layout::Bytes => map.len() < 500_000,
                Layout::Bits(width) => map.len() <= width.most(),
                Layout::Runs(width) => map.runs().all(|run| run <= width.most()),
            };
            if fits {
                prop_assert_eq!(decode(&BASE64.encode(packed(format, &map))), Ok(map.clone()));
            }
        }
    }

    #[test]
    fn the_shortest_format_reads_back_or_is_none(runs in runs(), most in 0_usize..5_000) {
        let map = map(&runs);
        match encode(&map, most) {
            Some(written) => {
                prop_assert!(written.len() <= most);
                prop_assert_eq!(decode(&written), Ok(map));
            }
            None => prop_assert!(!always_fits(map.len(), map.incomplete(), most), "what always fits was not written"),
        }
    }

    #[test]
    fn runs_and_bits_say_the_same(runs in runs()) {
        let map = map(&runs);
        let expected: Vec<bool> = runs.iter().enumerate().flat_map(|(index, run)| vec![index % 2 == 1; *run]).collect();
        let last = expected.iter().rposition(|done| *done).map_or(0, |last| last + 1);
        prop_assert_eq!(map.len(), last);
        prop_assert!((0..last).all(|index| map.is_done(index) == expected[index]));
        prop_assert_eq!(map.incomplete(), expected[..last].iter().filter(|done| !**done).count());
        prop_assert_eq!(map.runs().sum::<usize>(), last);
    }

    #[test]
    fn damaged_bytes_are_an_error_or_a_bounded_map(magic in prop::sample::select(b"Llaosnjep\xeeJ\x01".to_vec()), rest in prop::collection::vec(any::<u8>(), 0..200)) {
        let bytes: Vec<u8> = [magic].into_iter().chain(rest).collect();
        if let Ok(map) = decode(&BASE64.encode(bytes)) {
            prop_assert!(map.len() <= MOST_OFFSETS);
        }
    }

    #[test]
    fn a_damaged_map_is_an_error_or_a_bounded_map(runs in runs(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let map = map(&runs);
        for format in FORMATS.iter().filter(|format| format.layout != Layout::Bytes) {
            let mut bytes = packed(format, &map);
            let place = at.index(bytes.len());
            bytes[place] = byte;
            let _ = decode(&BASE64.encode(&bytes)).map(|map| assert!(map.len() <= MOST_OFFSETS));
            bytes.truncate(cut.index(bytes.len()));
            let _ = decode(&BASE64.encode(&bytes)).map(|map| assert!(map.len() <= MOST_OFFSETS));
        }
    }

    #[test]
    fn any_text_is_an_error_or_a_bounded_map(text in ".{0,200}") {
        let _ = decode(&text).map(|map| assert!(map.len() <= MOST_OFFSETS));
    }
}
