//! A short storm; `cargo storm` is the long one.

use std::time::Duration;

use harness::storm::{Plan, run};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_cut_off_nobody_gets_what_is_anothers() {
    let plan = Plan { time: Duration::from_secs(12), clients: 50, tenants: 10, seed: rand::random() };
    let report = run(&plan, &|_| {}).await.unwrap();
    assert!(report.foreign.is_empty(), "seed {}: {report}", plan.seed);
    // It was a storm: everything that can be searched was there to be searched, and cut off in many places.
    let searched = [report.answers, report.frames, report.prompts, report.news, report.values, report.rows];
    assert!(searched.iter().all(|count| *count > 20), "{report}");
    assert!(report.cuts.len() >= 8 && report.cuts.values().sum::<usize>() > 500, "{report}");
}
