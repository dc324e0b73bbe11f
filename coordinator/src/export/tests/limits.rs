//! The sweep's limits on what is exported, and the choice of what is shipped.

use super::{exported, nowhere, silent, timer, tiny};
use crate::{
    bundle::{Bundle, Kind},
    export::{ExportError, export},
};

/// Exports under these limits, with an int8 model that takes twice or half the float one's time.
fn check(limits: &str, is_int8_slow: bool) -> Result<Kind, Vec<&'static str>> {
    let (mut champion, features) = tiny::champion(tiny::small(Some(7)), 40);
    let text = format!(
        "name = \"tiny\"\n[split]\nkind = \"folds\"\nvalidation = [1]\n[space]\n[schedule]\nepochs = 2\n[export]\n{limits}"
    );
    champion.sweep = earshot_common::sweep::Sweep::parse(&text, "tiny.toml".as_ref(), &[]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("champion");
    let slow = |kind: Kind, run: &mut dyn FnMut()| {
        run();
        if kind == Kind::Float { 1_000_000 } else { 2_000_000 }
    };
    let result = if is_int8_slow {
        export(&champion, &features, &out, &slow, &nowhere, &silent)
    } else {
        export(&champion, &features, &out, &timer, &nowhere, &silent)
    };
    match result {
        Ok(summary) => {
            assert_eq!(Bundle::open(&out).unwrap().shipped(), summary.shipped.kind);
            Ok(summary.shipped.kind)
        }
        Err(ExportError::Gates(missed)) => {
            assert!(!out.exists());
            Err(missed.into_iter().map(|missed| missed.gate).collect())
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn the_faster_model_that_fits_is_shipped() {
    assert_eq!(check("", false), Ok(Kind::Int8));
    assert_eq!(check("", true), Ok(Kind::Float));
}

#[test]
fn a_model_beyond_a_limit_is_not_exported() {
    assert_eq!(check("max_int8_kib = 0.5", false), Err(vec!["max_int8_kib"]));
    assert_eq!(check("max_latency_ms = 0.9", false), Err(vec!["max_latency_ms"]));
    assert_eq!(
        check("max_int8_kib = 0.5\nmax_latency_ms = 1.5", true),
        Err(vec!["max_int8_kib", "max_latency_ms"])
    );
    assert_eq!(check("max_int8_kib = 500.0\nmax_latency_ms = 1.5", false), Ok(Kind::Int8));
}

#[test]
fn the_report_says_what_is_shipped_and_why() {
    let (summary, _folder) = exported(tiny::small(None), 40);
    assert!(summary.shipped.reason.starts_with("int8 is faster, 1.000 ms against 2.000 ms"), "{summary:?}");
    let report = std::fs::read_to_string(summary.folder.join("report.md")).unwrap();
    assert!(report.contains("**Ship `model.int8.onnx`**: int8 is faster"), "{report}");
    assert!(summary.int8.onnxruntime.top1_agreement >= 0.95, "{summary:?}");
    assert!((summary.float.onnxruntime.top1_agreement - 1.0).abs() < 1e-9, "{summary:?}");
}
