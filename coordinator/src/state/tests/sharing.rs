//! Several sweeps at once: their parts of the workers' time are as their weights.

use super::*;

/// A sweep of far more runs than are trained here.
fn endless(name: &str, weight: u32) -> Sweep {
    let text = "name = \"t\"\n[split]\nkind = \"folds\"\nvalidation = [1]\n[search]\nmethod = \"random\"\n[space]\n\
                dropout = { float = [0.1, 0.5] }\n[schedule]\nepochs = 2\n[budget]\ntrials = 1000000\n";
    Sweep { name: name.to_owned(), weight, ..Sweep::parse(text, Path::new("t.toml"), &[]).unwrap() }
}

/// Sweeps whose runs each take the same time, and workers' slots that are never idle.
struct Hall {
    state: State,
    now_ms: u64,
    worker: WorkerId,
    takes_ms: Vec<u64>,
    /// When the attempt of each slot ends, and of which sweep it is.
    slots: Vec<Option<(u64, SweepId, Token)>>,
    /// Of each sweep, the time of slots that was its own.
    had_ms: Vec<u64>,
}

impl Hall {
    fn new(slots: usize, sweeps: &[(u32, u64)]) -> Self {
        let mut hall = Self {
            state: State::default(),
            now_ms: 0,
            worker: WorkerId(0),
            takes_ms: Vec::new(),
            slots: vec![None; slots],
            had_ms: Vec::new(),
        };
        let slots = slots as u32;
        hall.does(EventKind::Joined { name: "w".into(), slots, device: "cpu".into(), by: None });
        for &(weight, takes_ms) in sweeps {
            hall.submit(weight, takes_ms);
        }
        hall
    }

    fn does(&mut self, kind: EventKind) -> Decision {
        self.state.apply(&Event { at_ms: self.now_ms, kind }).unwrap()
    }

    fn submit(&mut self, weight: u32, takes_ms: u64) {
        let name = format!("sweep-{}", self.takes_ms.len());
        let sweep = Box::new(endless(&name, weight));
        self.does(EventKind::Submitted { sweep, dataset: dataset() });
        self.takes_ms.push(takes_ms);
        self.had_ms.push(0);
    }

    /// Trains until then.
    fn until(&mut self, end_ms: u64) {
        while self.now_ms < end_ms {
            for slot in 0..self.slots.len() {
                if self.slots[slot].is_some_and(|(ends_ms, ..)| ends_ms <= self.now_ms) {
                    let (_, sweep, token) = self.slots[slot].take().unwrap();
                    self.had_ms[sweep.0 as usize] += self.takes_ms[sweep.0 as usize];
                    let failure = Failure { reason: Reason::Diverged, message: "enough".into() };
                    let outcome = Outcome::Failed(failure);
                    self.does(EventKind::Finished { worker: self.worker, token, outcome });
                }
            }
            for slot in 0..self.slots.len() {
                if self.slots[slot].is_none() {
                    let proposed = self.state.proposals(self.now_ms);
                    let asked = EventKind::Asked { worker: self.worker, proposed };
                    let Decision::Granted(grant) = self.does(asked) else { panic!("nothing to do") };
                    let sweep = grant.run.sweep;
                    let ends_ms = self.now_ms + self.takes_ms[sweep.0 as usize];
                    self.slots[slot] = Some((ends_ms, sweep, grant.token));
                }
            }
            self.now_ms = self.slots.iter().flatten().map(|(ends_ms, ..)| *ends_ms).min().unwrap();
        }
    }

    /// What a sweep has had since it had `before`, by its weight, in milliseconds.
    fn had(&self, sweep: usize, weight: u32, before: u64) -> f64 {
        (self.had_ms[sweep] - before) as f64 / f64::from(weight)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// However many slots there are and however long runs take: no sweep is ever further behind another than the runs at work
    /// can explain, so in the long run the parts are as the weights.
    #[test]
    fn parts_of_the_workers_time_are_as_the_weights(
        slots in 1_usize..12,
        sweeps in prop::collection::vec((1_u32..=8, 20_u64..2_000), 2..5),
    ) {
        let mut hall = Hall::new(slots, &sweeps);
        let longest_ms = sweeps.iter().map(|&(_, takes_ms)| takes_ms).max().unwrap();
        hall.until(120 * longest_ms);
        let had: Vec<f64> =
            sweeps.iter().enumerate().map(|(sweep, &(weight, _))| hall.had(sweep, weight, 0)).collect();
        let slack = (slots as u64 + 2) as f64 * longest_ms as f64;
        for (one, &a) in had.iter().enumerate() {
            for &b in &had[one..] {
                prop_assert!((a - b).abs() <= slack, "{sweeps:?} on {slots} slots had {had:?}");
            }
        }
        let total: u64 = hall.had_ms.iter().sum();
        let weights: u32 = sweeps.iter().map(|&(weight, _)| weight).sum();
        for (&(weight, _), &had_ms) in sweeps.iter().zip(&hall.had_ms) {
            let (part, fair) = (had_ms as f64 / total as f64, f64::from(weight) / f64::from(weights));
            prop_assert!((part - fair).abs() < 0.1, "{part} of the time where {fair} is fair: {sweeps:?}");
        }
    }
}

/// One slot, runs of one length: the order itself.
#[test]
fn a_sweep_of_weight_three_gets_three_runs_of_four() {
    let mut hall = Hall::new(1, &[(1, 10), (3, 10)]);
    hall.until(401);
    assert_eq!(hall.had_ms, [100, 300]);
}

#[test]
fn a_sweep_that_comes_later_shares_from_then_on_and_saves_nothing_while_it_is_paused() {
    let mut hall = Hall::new(2, &[(1, 10)]);
    hall.until(10_000);
    hall.submit(1, 10);
    let before = hall.had_ms.clone();
    hall.until(12_000);
    let parts = |hall: &Hall, before: &[u64]| [0, 1].map(|sweep| hall.had(sweep, 1, before[sweep]));
    let [first, second] = parts(&hall, &before);
    assert!((first - second).abs() <= 40.0, "{first} and {second} since the second came");

    hall.does(EventKind::Paused { sweep: SweepId(1) });
    hall.until(30_000);
    hall.does(EventKind::Resumed { sweep: SweepId(1) });
    let before = hall.had_ms.clone();
    hall.until(32_000);
    let [first, second] = parts(&hall, &before);
    assert!((first - second).abs() <= 40.0, "{first} and {second} since the second went on");
}

/// Slots that ask at the same moment, before anything is known of how long runs take.
#[test]
fn whoever_asks_at_once_is_spread_over_the_sweeps() {
    let mut hall = Hall::new(8, &[(1, 1_000), (3, 1_000)]);
    hall.until(1);
    assert_eq!([0, 1].map(|sweep| hall.state.sweep(SweepId(sweep)).unwrap().leased()), [2, 6]);
}
