use std::{collections::BTreeMap, fs, path::Path};

use earshot_common::frontend::FrontEnd;

use super::*;
use crate::{dataset::Dataset, split::Split};

const RATE_HZ: u32 = 8_000;

fn front_end() -> FrontEnd {
    FrontEnd { sample_rate_hz: RATE_HZ, duration_s: 1.0, ..FrontEnd::default() }
}

/// Writes a WAV of these samples in 16 bits, or in 32 if the name says so.
fn write(path: &Path, samples: &[f32]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let is_float = path.to_string_lossy().contains("float");
    let (bits_per_sample, sample_format) =
        if is_float { (32, hound::SampleFormat::Float) } else { (16, hound::SampleFormat::Int) };
    let spec = hound::WavSpec { channels: 1, sample_rate: RATE_HZ, bits_per_sample, sample_format };
    let mut writer = hound::WavWriter::create(path, spec).unwrap();
    for sample in samples {
        let step = (sample * 32_768.0).round().clamp(-32_768.0, 32_767.0);
        if is_float {
            writer.write_sample(step / 32_768.0).unwrap();
        } else {
            writer.write_sample(step as i16).unwrap();
        }
    }
    writer.finalize().unwrap();
}

fn tone(hz: f32, amplitude: f32) -> Vec<f32> {
    (0..RATE_HZ).map(|i| amplitude * (i as f32 * hz * std::f32::consts::TAU / RATE_HZ as f32).sin()).collect()
}

/// Two classes in two folds with something of everything wrong.
fn dataset() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let clip = |name: &str, samples: &[f32]| write(&root.path().join(name), samples);
    clip("dog.wav", &tone(300.0, 0.5));
    clip("dog_float.wav", &tone(300.0, 0.5));
    clip("cat_is_dog.wav", &tone(300.0, 0.5));
    clip("cut.wav", &tone(200.0, 3.0));
    clip("padded.wav", &[vec![0.0; 4_096], tone(500.0, 0.5), vec![0.0; 4_096]].concat());
    clip("offset.wav", &tone(700.0, 0.2).iter().map(|sample| sample + 0.1).collect::<Vec<_>>());
    clip("silent.wav", &[0.0; 100]);
    clip("<b>&.wav", &tone(900.0, 0.5));
    clip("stray.wav", &[]);
    fs::write(root.path().join("broken.wav"), "text").unwrap();
    let list = "filename,label,fold,source\ndog.wav,dog,1,s1\ndog_float.wav,dog,2,s1\ncat_is_dog.wav,cat,1,s2\ncut.wav,cat,2,s3\n\
                padded.wav,dog,1,s4\noffset.wav,cat,1,s5\nsilent.wav,dog,1,s6\n<b>&.wav,cat,2,s7\nbroken.wav,dog,1,s8\ngone.wav,dog,1,s9\n";
    fs::write(root.path().join("clips.csv"), list).unwrap();
    root
}

fn report(root: &Path) -> Report {
    let survey = survey(Dataset::read(root).unwrap(), &front_end(), &());
    let entries: Vec<_> = survey.clips.iter().map(ClipReport::entry).collect();
    let splits = [(1, Split::by_folds(&entries, 1, &[]).unwrap())];
    let chosen = ChosenSplit { name: "folds".to_owned(), splits: Ok(BTreeMap::from(splits)) };
    Report::new("<here>".to_owned(), survey, &front_end(), Some(&chosen))
}

#[test]
fn everything_wrong_is_found() {
    let root = dataset();
    let report = report(root.path());
    let found = |kind: &str| {
        let finding = report.findings.iter().find(|finding| finding.kind == kind);
        finding
            .map(|finding| (finding.severity, finding.clips.iter().map(String::as_str).collect::<Vec<_>>()))
    };
    assert_eq!(found("missing"), Some((Severity::Error, vec!["gone"])));
    assert_eq!(found("unlisted"), Some((Severity::Error, vec!["stray.wav"])));
    assert_eq!(found("unreadable"), Some((Severity::Error, vec!["broken"])));
    assert_eq!(found("silent"), Some((Severity::Error, vec!["silent"])));
    let same = vec!["dog", "dog_float", "cat_is_dog"];
    assert_eq!(found("contradiction"), Some((Severity::Error, same.clone())));
    assert_eq!(found("clipping"), Some((Severity::Warning, vec!["cut"])));
    assert_eq!(found("dc_offset"), Some((Severity::Warning, vec!["offset"])));
    assert_eq!(found("padding"), Some((Severity::Note, vec!["padded"])));
    assert_eq!(found("folds"), Some((Severity::Warning, vec!["dog", "dog_float"])));
    assert_eq!(found("leakage"), Some((Severity::Warning, same.clone())));
    assert_eq!(report.leakage.folds[0].sources, ["s1"]);
    assert_eq!(report.duplicates[0].classes, ["cat", "dog"]);
    assert!(!report.duplicates[0].same_bytes);
    assert_eq!(report.findings[0].severity, Severity::Error);
    assert_eq!(report.totals.clips, 7);
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let root = dataset();
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    assert_eq!(pool(1).install(|| report(root.path())), pool(5).install(|| report(root.path())));
}

#[test]
fn the_page_is_whole_and_escapes_names() {
    let root = dataset();
    let html = page::page(&report(root.path()));
    assert!(html.starts_with("<!doctype html>") && html.ends_with("</html>\n"));
    assert!(
        !html.contains("<b>&.wav") && html.contains("&lt;b&gt;&amp;.wav") && html.contains("&lt;here&gt;")
    );
    for outside in ["<script", "http://", "https://", "src=", "href=", "url(", "@import"] {
        assert!(!html.contains(outside), "{outside}");
    }
    for tag in ["section", "table", "svg", "figure", "details", "tr", "td"] {
        let (open, close) =
            (html.matches(&format!("<{tag}")).count(), html.matches(&format!("</{tag}>")).count());
        // `<td` is not a beginning of another tag's name, `<tr` neither.
        assert_eq!(open, close, "{tag}");
    }
}

#[test]
fn nothing_usable_still_makes_a_report() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("clips.csv"), "filename,label\ngone.wav,dog\n").unwrap();
    let survey = survey(Dataset::read(root.path()).unwrap(), &front_end(), &());
    let report = Report::new("x".to_owned(), survey, &front_end(), None);
    assert_eq!((report.totals.clips, report.findings[0].kind.as_str()), (0, "missing"));
    assert!(page::page(&report).contains("No values."));
}
