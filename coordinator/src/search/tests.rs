use std::{collections::BTreeSet, path::Path};

use earshot_common::sweep::{Hyperparameter, Sweep, Value};
use proptest::prelude::*;

use super::*;

fn sweep(space: &str, search: &str) -> Sweep {
    let text = format!(
        "name = \"t\"\nseed = 7\n[split]\nkind = \"folds\"\nvalidation = [1]\n[schedule]\nepochs = 1\n\
         [budget]\ntrials = 1000\n[space]\n{space}\n[search]\n{search}\n"
    );
    Sweep::parse(&text, Path::new("t.toml"), &[]).unwrap()
}

/// 2 × 3 × (1 + 2) points, less the six of the forbidden pair.
const FINITE: &str = "batch_size = { int = [16, 32], step = 16 }\ndropout = { float = [0.1, 0.3], step = 0.1 }\n\
    optimizer = { choice = [\"adam\", \"adamw\"] }\n\
    weight_decay = { choice = [0.01, 0.1], when = { optimizer = \"adamw\" } }\n\
    [[forbid]]\nbatch_size = 16\noptimizer = \"adamw\"\n";

const ENDLESS: &str = "learning_rate = { float = [1e-4, 1e-2], log = true }\n\
    fc_units = { int = [8, 256], log = true }\nhead = { choice = [\"flatten\", \"mean\", \"mean_max\"] }\n\
    optimizer = { choice = [\"adam\", \"adamw\"] }\n\
    weight_decay = { float = [1e-5, 1e-1], log = true, when = { optimizer = \"adamw\" } }\n";

/// Every method that proposes points of a finite space.
const METHODS: [&str; 6] = [
    "method = \"grid\"",
    "method = \"grid\"\nshuffle = true",
    "method = \"random\"",
    "method = \"sobol\"",
    "method = \"tpe\"\nstartup = 5",
    "method = \"bayes\"\nstartup = 5",
];

/// What becomes of trials: made up from their points, with some pending, failed and infeasible.
fn standing(number: usize, point: &Point) -> Standing {
    let Value::Float(rate) = point.get(Hyperparameter::LearningRate) else { return Standing::Failed };
    let Value::Float(dropout) = point.get(Hyperparameter::Dropout) else { return Standing::Failed };
    match number % 7 {
        3 => Standing::Failed,
        5 => Standing::Infeasible,
        6 => Standing::Pending,
        _ => Standing::Completed(-(rate.log10() + 3.0).powi(2) - dropout),
    }
}

fn ask(sweep: &Sweep, history: &[Past<'_>]) -> Option<Proposal> {
    propose(&Question::plain(sweep.search, &sweep.space, sweep.seed, history))
}

/// The first so many proposals, or all of them.
fn run(sweep: &Sweep, most: usize) -> Vec<Point> {
    let mut points: Vec<Point> = Vec::new();
    while points.len() < most {
        let history: Vec<Past<'_>> = points
            .iter()
            .enumerate()
            .map(|(number, point)| Past { point, standing: standing(number, point), costs: Costs::default() })
            .collect();
        match ask(sweep, &history) {
            Some(proposal) => points.push(proposal.point),
            None => break,
        }
    }
    points
}

fn different(points: &[Point]) -> usize {
    points.iter().map(|point| format!("{point:?}")).collect::<BTreeSet<_>>().len()
}

#[test]
fn every_method_visits_a_finite_space_once() {
    for method in METHODS {
        let points = run(&sweep(FINITE, method), 100);
        assert_eq!((points.len(), different(&points)), (12, 12), "{method}");
    }
}

#[test]
fn a_shuffled_grid_has_an_order_of_its_own() {
    let [plain, shuffled] = [METHODS[0], METHODS[1]].map(|method| run(&sweep(FINITE, method), 100));
    assert_ne!(plain, shuffled);
    let mut other = sweep(FINITE, METHODS[1]);
    other.seed += 1;
    assert_ne!(run(&other, 100), shuffled);
}

/// Proposals of every method that takes an endless space, at other histories too.
fn endless(method: &str) -> Vec<Point> {
    let points = run(&sweep(ENDLESS, method), 60);
    assert_eq!((points.len(), different(&points)), (60, 60), "{method}");
    points
}

#[test]
fn proposals_stay_in_the_space_and_leave_inactive_ones_out() {
    for method in &METHODS[2..] {
        for point in endless(method) {
            let is_named = |name| point.iter().any(|(named, _)| named == name);
            let is_adamw = point.get(Hyperparameter::Optimizer) == Value::Text("adamw".into());
            assert_eq!(is_named(Hyperparameter::WeightDecay), is_adamw, "{point:?}");
            let space = sweep(ENDLESS, method).space;
            assert!(point.iter().all(|(name, value)| space.domain(name).unwrap().holds(value)), "{point:?}");
        }
    }
}

#[test]
fn random_points_are_spread_evenly() {
    let points = endless("method = \"random\"");
    let below = |limit: f64| {
        let is_below = |point: &&Point| matches!(point.get(Hyperparameter::LearningRate), Value::Float(rate) if rate < limit);
        points.iter().filter(is_below).count()
    };
    // Half of a logarithmic range is below its geometric mean; four standard deviations are 15.
    assert!((15..=45).contains(&below(1e-3)), "{}", below(1e-3));
}

#[test]
fn every_proposal_says_why() {
    let why = |method: &str, ended: usize| {
        let sweep = sweep(ENDLESS, method);
        let points = run(&sweep, ended);
        let past = points.iter().enumerate();
        let past = past.map(|(number, point)| Past {
            point,
            standing: standing(number, point),
            costs: Costs::default(),
        });
        ask(&sweep, &past.collect::<Vec<_>>()).unwrap().why.unwrap()
    };
    assert_eq!(why("method = \"random\"", 3), Why::Random);
    assert_eq!(why("method = \"sobol\"", 3), Why::Sobol);
    for method in ["method = \"tpe\"\nstartup = 5", "method = \"bayes\"\nstartup = 5"] {
        assert!(matches!(why(method, 2), Why::Startup { ended: 2, startup: 5 }), "{method}");
    }
    // Of twenty trials three each are infeasible, failed and pending; the first of each seven completes.
    let density = why("method = \"tpe\"\nstartup = 5", 20);
    assert!(matches!(density, Why::Density { good: 2, others: 18, .. }), "{density:?}");
    let improvement = why("method = \"bayes\"\nstartup = 5", 20);
    assert!(matches!(improvement, Why::Improvement { known: 15, pending: 2, .. }), "{improvement:?}");
    // A space of twelve points, of which eleven are known.
    let sweep = sweep(FINITE, "method = \"tpe\"\nstartup = 5");
    let points = run(&sweep, 11);
    let past = |point| Past { point, standing: Standing::Completed(0.5), costs: Costs::default() };
    let last = ask(&sweep, &points.iter().map(past).collect::<Vec<_>>());
    assert!(last.is_some_and(|last| last.why.is_some() && !points.contains(&last.point)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// A proposal depends on nothing but what is passed in: asked again at any point of the sweep, it is the same.
    #[test]
    fn a_restart_at_any_proposal_changes_nothing(seed: u64, restart in 0usize..30) {
        for method in &METHODS[2..] {
            let sweep = Sweep { seed, ..sweep(ENDLESS, method) };
            let points = run(&sweep, 31);
            let history: Vec<Past<'_>> = points[..restart]
                .iter()
                .enumerate()
                .map(|(number, point)| Past { point, standing: standing(number, point), costs: Costs::default() })
                .collect();
            let again = ask(&sweep, &history);
            prop_assert_eq!(again.as_ref().map(|proposal| &proposal.point), points.get(restart), "{}", method);
        }
    }
}

/// The distance from the best point after so many trials, all completed, of a made-up objective with a condition in it.
fn regret(sweep: &Sweep, trials: usize) -> f64 {
    let score = |point: &Point| {
        let float = |name| match point.get(name) {
            Value::Float(number) => number,
            _ => f64::NAN,
        };
        let head = if point.get(Hyperparameter::Head) == Value::Text("mean".into()) { 0.0 } else { 0.3 };
        let adam = if point.get(Hyperparameter::Optimizer) == Value::Text("adam".into()) { 0.5 } else { 0.0 };
        let rate = (float(Hyperparameter::LearningRate).log10() + 2.5).powi(2);
        let decay = (float(Hyperparameter::WeightDecay).max(1e-6).log10() + 2.0).powi(2) * 0.1;
        -(rate + decay.min(0.5) + head + adam)
    };
    let mut points: Vec<(Point, f64)> = Vec::new();
    while points.len() < trials {
        let past =
            |(point, score)| Past { point, standing: Standing::Completed(score), costs: Costs::default() };
        let history: Vec<Past<'_>> = points.iter().map(|(point, score)| past((point, *score))).collect();
        let point = ask(sweep, &history).unwrap().point;
        let score = score(&point);
        points.push((point, score));
    }
    -points.iter().map(|(_, score)| *score).fold(f64::NEG_INFINITY, f64::max)
}

/// On the mean of some seeds, so that no lucky draw decides.
fn mean_regret(method: &str, trials: usize, seeds: u64) -> f64 {
    let regrets = (0..seeds).map(|seed| regret(&Sweep { seed, ..sweep(ENDLESS, method) }, trials));
    regrets.sum::<f64>() / seeds as f64
}

#[test]
fn results_are_heeded() {
    let random = mean_regret("method = \"random\"", 60, 10);
    let tpe = mean_regret("method = \"tpe\"", 60, 10);
    assert!(tpe < 0.5 * random, "{tpe} of TPE, {random} of random search");
    let (random, bayes) =
        (mean_regret("method = \"random\"", 30, 10), mean_regret("method = \"bayes\"", 30, 3));
    assert!(bayes < 0.5 * random, "{bayes} of Bayesian optimisation, {random} of random search");
}

/// A liar keeps workers apart: with no result in between, a hundred proposals are a hundred places.
#[test]
fn proposals_without_results_keep_apart() {
    for method in ["method = \"tpe\"\nstartup = 5", "method = \"bayes\"\nstartup = 5"] {
        let sweep = sweep(ENDLESS, method);
        let mut points = run(&sweep, 20);
        let completed = points.len();
        while points.len() < completed + 40 {
            let history: Vec<Past<'_>> = points
                .iter()
                .enumerate()
                .map(|(number, point)| {
                    let standing =
                        if number < completed { standing(number, point) } else { Standing::Pending };
                    Past { point, standing, costs: Costs::default() }
                })
                .collect();
            points.push(ask(&sweep, &history).unwrap().point);
        }
        assert_eq!(different(&points), points.len());
    }
}

/// A made-up score that grows with the units of the layer, which cost.
fn costly(point: &Point) -> (f64, Costs) {
    let units = match point.get(Hyperparameter::FcUnits) {
        Value::Int(units) => units as f64,
        _ => f64::NAN,
    };
    let Value::Float(rate) = point.get(Hyperparameter::LearningRate) else { panic!("{point:?}") };
    (units.ln() - (rate.log10() + 3.0).powi(2), [units, units * units])
}

/// Trials of a sweep whose layer may have 200 units at most, one after the other.
fn run_with_costs(sweep: &Sweep, trials: usize) -> Vec<(Point, f64, Costs)> {
    let costs = |point: &Point| Some(costly(point).1).filter(|costs| costs[0] <= 200.0);
    let mut points: Vec<(Point, f64, Costs)> = Vec::new();
    while points.len() < trials {
        let past = points.iter().map(|(point, score, known)| Past {
            point,
            standing: if costs(point).is_some() { Standing::Completed(*score) } else { Standing::Infeasible },
            costs: *known,
        });
        let history: Vec<Past<'_>> = past.collect();
        let Sweep { search, space, seed, .. } = sweep;
        let (search, seed) = (*search, *seed);
        let question =
            Question { search, space, seed, history: &history, stages: None, has_costs: true, costs: &costs };
        let point = propose(&question).unwrap().point;
        assert_eq!(
            propose(&question).map(|again| again.point).as_ref(),
            Some(&point),
            "the same, asked again"
        );
        let (score, known) = costly(&point);
        points.push((point, score, known));
    }
    points
}

/// The part of a box of costs and scores that the trials dominate.
fn dominated(trials: &[(Point, f64, Costs)]) -> f64 {
    let mut least = trials.iter().map(|(_, score, costs)| (costs[0].ln(), *score)).collect::<Vec<_>>();
    least.retain(|(cost, _)| *cost <= 200f64.ln());
    let steps = 400;
    let at = |step: i32| f64::from(step) / f64::from(steps) * 200f64.ln();
    let best =
        |cost: f64| least.iter().filter(|(of, _)| *of <= cost).map(|(_, score)| *score).fold(0.0, f64::max);
    (0..steps).map(|step| best(at(step))).sum::<f64>() / f64::from(steps)
}

#[test]
fn costs_are_heeded_and_limits_kept() {
    const SEEDS: u64 = 3;
    // The layer's logarithm from 8 units on, which is the best score at that cost.
    let all = (200f64.ln().powi(2) - 8f64.ln().powi(2)) / 2.0 / 200f64.ln();
    let run = |method: &str| {
        let runs = (0..SEEDS).map(|seed| {
            let trials = run_with_costs(&Sweep { seed, ..sweep(ENDLESS, method) }, 40);
            // Once results are heeded, no point breaks the limit.
            let broken = trials[15..].iter().filter(|(_, _, costs)| costs[0] > 200.0).count();
            (all - dominated(&trials), broken)
        });
        runs.fold((0.0, 0), |sum, (missed, broken)| (sum.0 + missed / SEEDS as f64, sum.1 + broken))
    };
    let (random, by_chance) = run("method = \"random\"");
    let (tpe, tpe_broken) = run("method = \"tpe\"\nstartup = 10");
    let (bayes, bayes_broken) = run("method = \"bayes\"\nstartup = 10");
    assert!(by_chance > 0 && tpe_broken == 0 && bayes_broken == 0, "{by_chance} {tpe_broken} {bayes_broken}");
    assert!(
        tpe < random && bayes < 0.5 * random,
        "missed {bayes} by Bayesian optimisation, {tpe} by TPE, {random} by random search"
    );
}

/// A sweep over rungs in which half of the trials are held at the first: what was held there counts as far as it came.
#[test]
fn rungs_are_heeded() {
    let sweep = sweep(ENDLESS, "method = \"bayes\"\nstartup = 5");
    let points = run(&sweep, 20);
    let past = |point| Past { point, standing: Standing::Completed(0.0), costs: Costs::default() };
    let history: Vec<Past<'_>> = points.iter().map(past).collect();
    let score = |number: usize| (number * 7 % 20) as f64 / 20.0;
    let staged = |is_bad: bool| -> Vec<Vec<Stage>> {
        let of = |number: usize| {
            let first = Stage { epochs: 1, score: score(number) };
            // The second half is held; what it scored differs between both histories.
            match number < 10 {
                true => vec![first, Stage { epochs: 9, score: first.score + 0.3 }],
                false if is_bad => vec![Stage { score: -first.score, ..first }],
                false => vec![first],
            }
        };
        (0..points.len()).map(of).collect()
    };
    let ask = |of: &[Vec<Stage>]| {
        let plain = Question::plain(sweep.search, &sweep.space, sweep.seed, &history);
        propose(&Question { stages: Some(Stages { last: 9, of }), ..plain })
    };
    let (good, bad) = (ask(&staged(false)), ask(&staged(true)));
    assert_eq!(good, ask(&staged(false)), "the same, asked again");
    assert_ne!(good, bad);
    let why = good.unwrap().why.unwrap();
    assert!(matches!(why, Why::Improvement { known: 30, pending: 0, .. }), "{why:?}");
}
