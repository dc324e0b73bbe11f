use super::*;
use crate::sweep::{
    Halving, Prune, Search, Stop,
    prune::{Distil, Importance, Target},
    quantise::{Aware, Quantise},
};

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
fn a_weight_is_written_down_only_where_it_is_another() {
    assert_eq!(load(&[]).unwrap().weight, 1);
    let json = |overrides| serde_json::to_value(load(overrides).unwrap()).unwrap();
    assert_eq!(json(&[]).get("weight"), None);
    assert_eq!(json(&["weight=3"])["weight"], 3);
    check("name = \"grid\"", "name = \"grid\"\nweight = 0", 2, "weight must be from 1 to 1000, got 0");
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

/// Replaces the good file's dropout by this one's and expects a complaint in `line` that contains `part`.
fn check_space(space: &str, line: usize, part: &str) {
    check("dropout = { choice = [0.2, 0.3, 0.4, 0.5] }", space, line, part);
}

/// The good file under random search with these lines in its space.
fn random(space: &str, more: &str) -> Result<Sweep, SweepError> {
    let text = GOOD.replace("[schedule]", &format!("{space}\n[schedule]"));
    parse(&format!("{text}\n[search]\nmethod = \"random\"\n{more}"), Path::new("s.toml"), &[])
}

#[test]
fn wrong_ranges_are_refused_with_what_would_be_right() {
    check_space("dropout = { float = [0.5, 0.2] }", 10, "two ends, the smaller first");
    check_space("dropout = { float = [0.2] }", 10, "two ends");
    check_space("dropout = { float = [0.2, 1.2] }", 10, "from 0 to below 1, got 1.2");
    check_space("dropout = { float = [0.0, 0.5], log = true }", 10, "must begin above 0");
    check_space("dropout = { float = [0.1, 0.5], log = true, step = 0.1 }", 10, "both log and step");
    check_space("dropout = { float = [0.1, 0.5], step = 0 }", 10, "above 0 and at most 0.4");
    check_space("dropout = { float = [0.1, 0.5], log = 1 }", 10, "true or false");
    check_space("dropout = { float = [0.1, 0.5], step = 1e-9 }", 10, "at most 100000 are allowed");
    check_space("dropout = { int = [0, 1] }", 10, "write dropout = { float = [low, high] }");
    check_space("n_mfcc = { float = [13, 20] }", 10, "write n_mfcc = { int = [low, high] }");
    check_space("kernel_size = { int = [3, 5] }", 10, "write kernel_size = { choice = [ … ] }");
    check_space("n_mfcc = { int = [13, 20], step = 0.5 }", 10, "a whole number for int, got 0.5");
    check_space("dropout = { choice = [0.1, 0.5], log = true }", 10, "no meaning for a choice");
    check_space("dropout = { choice = [0.1], float = [0.1, 0.2] }", 10, "needs one of choice");
    check_space("dropout = { flaot = [0.1, 0.2] }", 10, "did you mean \"float\"?");
}

#[test]
fn what_cannot_be_searched_is_refused() {
    check_space("dropout = { float = [0.1, 0.5] }", 10, "{ float = [0.1, 0.5], step = … }");
    check(
        "[schedule]",
        "batch_size = { int = [1, 4096] }\nn_mfcc = { int = [8, 40] }\n[schedule]",
        7,
        "the grid has",
    );
    let error = random("weight_decay = { float = [0, 1] }", "").unwrap_err();
    assert!(error.to_string().contains("no end of points"), "{error}");
    let error = random("", "shuffle = true").unwrap_err();
    assert!(error.to_string().contains("no meaning for method = \"random\""), "{error}");
    assert_eq!(random("", "").unwrap().trials(), 24);
    assert_eq!(random("weight_decay = { float = [0, 1] }", "[budget]\ntrials = 7").unwrap().trials(), 7);
    let wide = parse(GOOD, Path::new("s.toml"), &["space.n_mfcc={ int = [2, 40] }".into()]).unwrap_err();
    assert!(wide.to_string().contains("n_mfcc = 2 cannot be built"), "{wide}");
}

#[test]
fn ranges_conditions_and_forbidden_combinations_are_read() {
    let space = "optimizer = { choice = [\"adam\", \"adamw\"] }\n\
                 weight_decay = { float = [1e-5, 1e-2], log = true, when = { optimizer = \"adamw\" } }\n\
                 n_mfcc = { int = [13, 40] }\nbatch_size = { int = [16, 64], step = 16 }";
    let forbid = "[[forbid]]\nfilters = [[16, 32]]\ndropout = [0.4, 0.5]\n[budget]\ntrials = 10";
    let sweep = random(space, forbid).unwrap();
    let json = serde_json::to_string(&sweep).unwrap();
    assert_eq!(serde_json::from_str::<Sweep>(&json).unwrap(), sweep);
    assert_eq!((sweep.space.dimensions().count(), sweep.trials()), (7, 10));
    let middle = sweep.space.at(|_| 0.5).unwrap();
    assert_eq!(middle.get(Hyperparameter::BatchSize), crate::sweep::Value::Int(48));
    // The first of all filters and the last dropout.
    let forbidden = |name| if name == Hyperparameter::Dropout { 1.0 } else { 0.0 };
    assert!(sweep.space.at(forbidden).is_none() && sweep.space.at(|_| 0.0).is_some());
}

#[test]
fn conditions_must_be_able_to_hold() {
    let adamw = "optimizer = { choice = [\"adam\", \"adamw\"] }\nweight_decay = { choice = [0.1, 0.2], when";
    let check = |when: &str, part: &str| {
        check_space(&format!("{adamw} = {when} }}"), 11, part);
    };
    check("{ optimzer = \"adamw\" }", "did you mean \"optimizer\"?");
    check("{ pooling = \"max\" }", "pooling is not in [space]");
    check("{ optimizer = \"sgd\" }", "optimizer must be \"adam\" or \"adamw\"");
    check("{ learning_rate = 0.5 }", "learning_rate is never 0.5");
    check("{ optimizer = [] }", "lists no value");
    check("{}", "empty condition");
    check("\"adamw\"", "when wants a table");
    check("{ weight_decay = 0.1 }", "depends on itself");
    check_space(
        "head = { choice = [\"mean\", \"flatten\"], when = { pooling = \"max\" } }\n\
         pooling = { choice = [\"max\", \"average\"], when = { head = \"mean\" } }",
        11,
        "depends on itself, through the condition of",
    );
    let forbid = |raw: &str, part: &str| {
        let text = format!("{GOOD}\n[[forbid]]\n{raw}\n");
        let error = parse(&text, Path::new("s.toml"), &[]).unwrap_err();
        assert!(error.to_string().contains(part) && error.line() == Some(15), "{error}");
    };
    forbid("", "forbids every point");
    forbid("dropout = 0.7", "dropout is never 0.7");
    forbid("dropuot = 0.2", "did you mean \"dropout\"?");
    let all = format!("{GOOD}\n[[forbid]]\ndropout = [0.2, 0.3, 0.4, 0.5]\n");
    assert!(parse(&all, Path::new("s.toml"), &[]).unwrap_err().to_string().contains("every point"));
}

#[test]
fn a_space_that_may_rule_out_what_cannot_be_built_is_taken() {
    let deep = "filters = { choice = [[8, 16], [8, 8, 8, 8]] }\nn_mfcc = { choice = [13, 20] }";
    let forbid = "[[forbid]]\nfilters = [8, 8, 8, 8]\nn_mfcc = 13\n";
    let text = GOOD.replace("filters = { choice = [[16, 32], [32, 64]] }", deep);
    let sweep = parse(&format!("{text}{forbid}"), Path::new("s.toml"), &[]).unwrap();
    assert_eq!(sweep.trials(), 3 * 4 * 3);
    let points = (0..36).filter_map(|number| sweep.space.point(number));
    assert_eq!(points.filter(|point| point.model(431, 2).layers().is_ok()).count(), 36);
    assert!(parse(&text, Path::new("s.toml"), &[]).unwrap_err().to_string().contains("cannot be built"));
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
    assert_eq!((sweep.schedule.epochs, sweep.trials(), sweep.space.size()), (3, 2, Some(6)));
    assert!(load(&["schedule.epochs"]).is_err());
    assert!(load(&["schedule.epcohs=3"]).unwrap_err().to_string().contains("did you mean \"epochs\"?"));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in ".{0,200}") {
        let _ = parse(&text, Path::new("s.toml"), &[]);
    }
}

#[test]
fn trials_are_stopped_by_a_rule_that_can_stop_them() {
    let rule = |lines: &str| parse(&format!("{GOOD}\n[stop]\n{lines}"), Path::new("s.toml"), &[]);
    let stop = |lines| rule(lines).unwrap().stop;
    let halving = |min_epochs, reduction| Halving { min_epochs, reduction };
    assert_eq!(stop("method = \"asha\""), Some(Stop::Asha(halving(1, 3))));
    assert_eq!(
        stop("method = \"hyperband\"\nmin_epochs = 2\nreduction = 2"),
        Some(Stop::Hyperband(halving(2, 2)))
    );
    assert_eq!(stop("method = \"median\"\nmin_epochs = 3"), Some(Stop::Median { min_epochs: 3, startup: 5 }));
    assert_eq!(load(&[]).unwrap().stop, None);
    let folds = GOOD.replace("validation = [1]", "validation = [1, 2]");
    let race = parse(&format!("{folds}\n[stop]\nmethod = \"race\"\n"), Path::new("s.toml"), &[]).unwrap();
    assert_eq!(race.stop, Some(Stop::Race { startup: 5, confidence: 0.95 }));
    for (lines, part) in
        [("startup = 1", "at least 2"), ("confidence = 1.0", "below 1"), ("reduction = 3", "no meaning")]
    {
        let text = format!("{folds}\n[stop]\nmethod = \"race\"\n{lines}\n");
        let error = parse(&text, Path::new("s.toml"), &[]).unwrap_err();
        assert!(error.to_string().contains(part) && error.line().is_some(), "{lines}: {error}");
    }
    let learns = |stop: &str| {
        let text = format!("{GOOD}\n[search]\nmethod = \"bayes\"\nrungs = true\n{stop}");
        parse(&text, Path::new("s.toml"), &[]).map(|sweep| sweep.search)
    };
    let stop_at_rungs = "[stop]\nmethod = \"asha\"\n";
    assert_eq!(learns(stop_at_rungs).unwrap(), Search::Bayes { startup: 10, rungs: true });
    for without in ["", "[stop]\nmethod = \"median\"\n"] {
        let error = learns(without).unwrap_err();
        assert!(
            error.to_string().contains("learns from the rungs of [stop]") && error.line().is_some(),
            "{error}"
        );
    }
    let sweep = rule("method = \"asha\"").unwrap();
    assert_eq!(serde_json::from_value::<Sweep>(serde_json::to_value(&sweep).unwrap()).unwrap(), sweep);
    for (lines, part) in [
        ("method = \"race\"", "a race goes over folds"),
        ("method = \"ash\"", "did you mean \"asha\"?"),
        ("method = \"asha\"\nstartup = 3", "no meaning"),
        ("method = \"median\"\nreduction = 3", "no meaning"),
        ("method = \"median\"\nstartup = 0", "at least 1"),
        ("method = \"asha\"\nmin_epochs = 10", "below schedule.epochs = 10"),
        ("method = \"asha\"\nmin_epochs = 0", "at least 1"),
        ("method = \"asha\"\nreduction = 1", "from 2 to 16"),
    ] {
        let error = rule(lines).unwrap_err();
        assert!(error.to_string().contains(part), "{lines}: {error}");
        assert!(error.line().is_some(), "{lines}");
    }
}

#[test]
fn up_to_two_costs_may_be_kept_small_beside_the_metric() {
    let objective = |lines: &str| {
        let text = GOOD.replace("[objective]\n", "");
        parse(&format!("{text}\n[objective]\n{lines}"), Path::new("s.toml"), &[])
    };
    let sweep = objective("minimise = [\"int8_kib\", \"macs\"]").unwrap();
    assert_eq!(
        (sweep.objective, sweep.minimise.as_slice()),
        (Objective::Accuracy, [CostMetric::Int8Kib, CostMetric::Macs].as_slice())
    );
    assert_eq!(serde_json::from_value::<Sweep>(serde_json::to_value(&sweep).unwrap()).unwrap(), sweep);
    assert!(load(&[]).unwrap().minimise.is_empty());
    for (lines, part) in [
        ("minimise = [\"int8_kb\"]", "did you mean \"int8_kib\"?"),
        ("minimise = [\"macs\", \"macs\"]", "macs is listed twice"),
        ("minimise = [\"macs\", \"params\", \"int8_kib\"]", "at most 2 costs"),
    ] {
        let error = objective(lines).unwrap_err();
        assert!(error.to_string().contains(part) && error.line().is_some(), "{lines}: {error}");
    }
}

#[test]
fn pruning_has_one_target_that_can_be_gone_to() {
    let rule = |lines: &str| parse(&format!("{GOOD}\n[prune]\n{lines}"), Path::new("s.toml"), &[]);
    let sweep = rule("importance = \"magnitude\"\nint8_kib = 16\nepochs = 5").unwrap();
    let (importance, target) = (Importance::Magnitude, Target::Int8Kib(16.0));
    assert_eq!(
        sweep.prune,
        Some(Prune { importance, target, steps: 3, multiple_of: 4, epochs: 5, distil: None })
    );
    assert_eq!(serde_json::from_value::<Sweep>(serde_json::to_value(&sweep).unwrap()).unwrap(), sweep);
    assert_eq!(load(&[]).unwrap().prune, None);
    let taylor =
        rule("importance = \"taylor\"\nratio = 0.5\nepochs = 1\nsteps = 1\nmultiple_of = 8").unwrap();
    assert_eq!(taylor.prune.map(|prune| (prune.target, prune.multiple_of)), Some((Target::Ratio(0.5), 8)));
    let distil =
        |text: &str| rule(&format!("importance = \"taylor\"\nepochs = 1\nmacs = 9\ndistil = {text}"));
    let taught = distil("{ weight = 0.7 }").unwrap().prune.and_then(|prune| prune.distil);
    assert_eq!(taught, Some(Distil { weight: 0.7, temperature: 4.0 }));
    assert!(distil("{ weight = 1.1 }").unwrap_err().to_string().contains("at most 1"));
    assert!(distil("{ temperatur = 2 }").unwrap_err().to_string().contains("did you mean \"temperature\"?"));
    for (lines, part) in [
        ("importance = \"taylr\"\nmacs = 9", "did you mean \"taylor\"?"),
        ("importance = \"taylor\"\nmac = 9\nepochs = 1", "did you mean \"macs\"?"),
        ("importance = \"taylor\"\nepochs = 1", "needs one target"),
        ("importance = \"taylor\"\nepochs = 1\nmacs = 9\nratio = 0.5", "keep one of"),
        ("importance = \"taylor\"\nepochs = 1\nratio = 1.0", "below 1"),
        ("importance = \"taylor\"\nepochs = 1\nint8_kib = 0", "above 0"),
        ("importance = \"taylor\"\nepochs = 1\nmacs = 0", "above 0"),
        ("importance = \"taylor\"\nepochs = 0\nmacs = 9", "from 1 to 100000"),
        ("importance = \"taylor\"\nepochs = 1\nmacs = 9\nsteps = 65", "from 1 to 64"),
        ("importance = \"taylor\"\nepochs = 1\nmacs = 9\nmultiple_of = 0", "from 1 to 64"),
        ("importance = \"batch_norm\"\nepochs = 1\nmacs = 9", "no model of this space has it"),
    ] {
        let error = rule(lines).unwrap_err();
        assert!(error.to_string().contains(part), "{lines}: {error}");
        assert!(error.line().is_some(), "{lines}");
    }
    let with = GOOD.replace("[space]\n", "[space]\nbatch_norm = { choice = [true, false] }\n");
    let text = format!("{with}\n[prune]\nimportance = \"batch_norm\"\nepochs = 1\nmacs = 9");
    assert!(parse(&text, Path::new("s.toml"), &[]).is_ok(), "the champion may have it");
}

#[test]
fn aware_training_says_when_it_is_done() {
    let rule = |lines: &str| parse(&format!("{GOOD}\n[quantise]\n{lines}"), Path::new("s.toml"), &[]);
    let sweep = rule("aware = { epochs = 5, learning_rate = 1e-4 }\n[export]\nmax_drop = 0.01").unwrap();
    let aware = Aware { epochs: 5, learning_rate: 1e-4, always: false };
    assert_eq!(sweep.quantise, Some(Quantise { aware }));
    assert_eq!(serde_json::from_value::<Sweep>(serde_json::to_value(&sweep).unwrap()).unwrap(), sweep);
    assert_eq!(load(&[]).unwrap().quantise, None);
    let always = rule("aware = { epochs = 5, learning_rate = 1e-4, always = true }").unwrap();
    assert_eq!(always.quantise.map(|quantise| quantise.aware.always), Some(true));
    for (lines, part) in [
        ("", "missing field `aware`"),
        ("aware = { epochs = 5, learning_rate = 1e-4 }", "set one, or aware.always = true"),
        ("aware = { epochs = 0, learning_rate = 1e-4, always = true }", "from 1 to 100000"),
        ("aware = { epochs = 5, learning_rate = 0.0, always = true }", "above 0"),
        ("aware = { epochs = 5, learning_rte = 1e-4 }", "did you mean \"learning_rate\"?"),
    ] {
        let error = rule(lines).unwrap_err();
        assert!(error.to_string().contains(part), "{lines}: {error}");
        assert!(error.line().is_some(), "{lines}");
    }
}

#[test]
fn int8_accuracy_is_no_metric_for_the_median() {
    let text = |method: &str| {
        format!("{GOOD}\n[objective]\nmetric = \"int8_accuracy\"\n[stop]\nmethod = \"{method}\"\n")
    };
    let parsed = |method| parse(&text(method), Path::new("s.toml"), &[]);
    assert_eq!(parsed("asha").unwrap().objective, Objective::Int8Accuracy);
    let error = parsed("median").unwrap_err();
    assert!(error.to_string().contains("take \"asha\"") && error.line().is_some(), "{error}");
}
