//! What happened in a simulation, counted: faults that do not happen find nothing.

macro_rules! coverage {
    ($($name:ident),* $(,)?) => {
        #[derive(Debug, Default)]
        pub(crate) struct Coverage {
            $(pub(crate) $name: u64,)*
        }

        impl Coverage {
            pub(crate) fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// What never happened.
            pub(crate) fn missing(&self) -> Vec<&'static str> {
                let counts = [$((stringify!($name), self.$name)),*];
                counts.into_iter().filter(|(_, count)| *count == 0).map(|(name, _)| name).collect()
            }
        }
    };
}

coverage!(
    steps,
    entries,
    completed_runs,
    failed_runs,
    quarantined_runs,
    infeasible_trials,
    sweeps_handed_in_later,
    sweeps_chosen_among,
    paused_sweeps,
    resumed_sweeps,
    cancelled_sweeps,
    cancelled_attempts,
    abandoned_attempts,
    refits_granted,
    cuts_made,
    cuts_refused,
    cuts_repeated,
    cuts_lost,
    pruned_runs_granted,
    pruned_runs_failed,
    prunings_completed,
    quantisations_lost,
    quantisations_repeated,
    models_kept,
    aware_runs_granted,
    aware_runs_failed,
    aware_runs_completed,
    sweeps_scored_in_int8,
    held_runs,
    promoted_runs,
    resumed_attempts,
    runs_granted_together,
    replays_asked,
    replays_joined,
    replays_refused,
    replays_cancelled,
    replayed_runs_identical,
    replayed_runs_different,
    replayed_runs_failed,
    replays_stopped_at_a_difference,
    drained_attempts,
    expired_leases,
    unclaimed_grants,
    crashes_before_commit,
    crashes_after_commit,
    crashes_amid_answers,
    restarts,
    clocks_set_back,
    clocks_set_forward,
    suspensions,
    slow_commits,
    shared_commits,
    dropped_messages,
    duplicated_messages,
    delayed_messages,
    overtaken_messages,
    partitions,
    worker_crashes,
    worker_freezes,
    workers_that_left,
    workers_that_joined_again,
    late_reports_refused,
    late_results_refused,
    repeated_results_noted,
    revoked_in_heartbeats,
    answers_nobody_waited_for,
    hundreds_of_workers,
    lies_of_others_attempts,
    lies_of_stale_tokens,
    lies_of_future_tokens,
    lies_of_epochs_out_of_order,
    lies_of_numbers_that_are_none,
    lies_of_wrong_shapes,
    lies_of_best_epochs,
    lies_of_strangers,
    lies_of_free_slots,
);
