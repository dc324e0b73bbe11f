use super::*;

const GOOD: &str = r#"name = "grid"

[split]
kind = "folds"
validation = [1]

[space]
learning_rate = { choice = [1e-2, 1e-3, 1e-4] }
filters = { choice = [[16, 32], [32, 64]] }
dropout = { choice = [0.2, 0.3, 0.4, 0.5] }

[schedule]
epochs = 10
"#;

/// Replaces one line of the good file and expects a complaint about `line` that contains `part`.
fn check(old: &str, new: &str, line: usize, part: &str) {
    assert!(GOOD.contains(old), "{old}");
    let error = parse(&GOOD.replace(old, new), Path::new("s.toml"), &[]).unwrap_err();
    assert!(error.to_string().contains(part), "{error}");
    assert_eq!(error.line(), Some(line), "{error}");
}

fn load(overrides: &[&str]) -> Result<Sweep, SweepError> {
    let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
    parse(GOOD, Path::new("s.toml"), &overrides)
}

#[test]
fn the_grid_has_24_points() {
    let sweep = load(&[]).unwrap();
    assert_eq!((sweep.trials(), sweep.split.folds()), (24, vec![1]));
    let json = serde_json::to_string(&sweep).unwrap();
    assert_eq!(serde_json::from_str::<Sweep>(&json).unwrap(), sweep);
}

#[test]
fn unknown_keys_name_the_nearest_known_one() {
    check("epochs = 10", "epochs = 10\npatence = 3", 14, "did you mean \"patience\"?");
    check("dropout =", "droput =", 10, "did you mean \"dropout\"?");
    check("\"folds\"", "\"fold\"", 4, "did you mean \"folds\"?");
}

#[test]
fn wrong_types_and_ranges_name_their_line() {
    check("epochs = 10", "epochs = \"ten\"", 13, "invalid type");
    check("epochs = 10", "epochs = 0", 13, "from 1 to 100000");
    check("epochs = 10", "epochs = 10\npatience = 10", 14, "patience must be from 1 to below epochs");
    check("0.5] }", "1.5] }", 10, "dropout must be a number from 0 to below 1, got 1.5");
    check("0.5] }", "0.2] }", 10, "twice");
    check("[0.2, 0.3, 0.4, 0.5]", "[]", 10, "no values");
    check("1e-2, ", "\"fast\", ", 8, "learning_rate must be a number above 0");
    check("{ choice = [1e-2, 1e-3, 1e-4] }", "{ chioce = [1e-2] }", 8, "unknown key");
    check("validation = [1]", "validation = []", 5, "at least one fold");
    check("validation = [1]", "validation = [1]\ntest = [1]", 6, "listed twice");
    check("validation = [1]", "validation = [1]\ntest_size = 0.2", 6, "no meaning");
    check("name = \"grid\"", "name = \"a/b\"", 1, "letters, digits");
}

#[test]
fn impossible_combinations_are_refused() {
    check("[[16, 32], [32, 64]]", "[[8, 8], [8, 8, 8, 8]]", 9, "pools 1×53 features to nothing");
    check("[space]", "[space]\nn_mfcc = 65", 8, "from 1 to 64");
    check("[space]", "[space]\ntime_masks = 2", 8, "no effect without time_mask_param");
    let error = load(&["front_end.n_mfcc=10"]).unwrap_err();
    assert!(error.to_string().contains("the front end keeps 10"), "{error}");
}

#[test]
fn trimming_can_be_turned_off() {
    assert_eq!(load(&["front_end.trim_top_db=none"]).unwrap().front_end.trim_top_db, None);
    assert_eq!(load(&["front_end.trim_top_db=30"]).unwrap().front_end.trim_top_db, Some(30.0));
    assert!(load(&["front_end.trim_top_db=off"]).unwrap_err().to_string().contains("or \"none\""));
}

#[test]
fn broken_toml_names_its_line() {
    check("epochs = 10", "epochs = = 10", 13, "");
}

#[test]
fn overrides_are_toml_or_bare_words() {
    let sweep =
        load(&["data.root=/tmp/clips", "schedule.epochs=3", "space.dropout=0.1", "budget.trials=2"]).unwrap();
    assert_eq!(sweep.data.root, Path::new("/tmp/clips"));
    assert_eq!((sweep.schedule.epochs, sweep.trials(), sweep.space.size()), (3, 2, 6));
    assert!(load(&["schedule.epochs"]).is_err());
    assert!(load(&["schedule.epcohs=3"]).unwrap_err().to_string().contains("did you mean \"epochs\"?"));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in ".{0,200}") {
        let _ = parse(&text, Path::new("s.toml"), &[]);
    }
}
