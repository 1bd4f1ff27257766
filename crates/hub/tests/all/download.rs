//! One file on its way: resumes, checks, retries, redirects, interrupts.

use std::{
    fs,
    time::{Duration, Instant},
};

use hub::{
    error::HubError,
    standin::{Fault, Recorded, Server},
    watcher::Watcher,
};

use crate::support::{WEIGHTS, World, message, weights};

fn headers(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

/// Stops once a file has come this far.
struct StopAt(u64);

impl Watcher for StopAt {
    fn progress(&mut self, file: &str, done_bytes: u64, _total_bytes: u64) {
        if file == "model.safetensors" && done_bytes >= self.0 {
            self.0 = 0;
        }
    }

    fn interrupted(&mut self) -> bool {
        self.0 == 0
    }
}

#[test]
fn a_broken_body_is_taken_up_where_it_broke() {
    let world = World::new();
    world
        .standin
        .fail(Server::Storage, WEIGHTS, 1, Fault::BreakAfter(100_000));
    world
        .standin
        .fail(Server::Storage, WEIGHTS, 1, Fault::BreakAfter(50_000));
    let folder = world.model().expect("two breaks are within the retries");
    let ranges: Vec<Option<String>> = world
        .requests_for(WEIGHTS)
        .iter()
        .filter(|request| request.server == Server::Storage)
        .map(|request| request.header("range").map(str::to_owned))
        .collect();
    assert_eq!(
        ranges,
        [
            None,
            Some("bytes=100000-".into()),
            Some("bytes=150000-".into())
        ]
    );
    world.assert_weights(&folder);
}

#[test]
fn the_next_run_takes_up_what_the_last_one_left() {
    let world = World::new();
    world
        .standin
        .fail(Server::Storage, WEIGHTS, 4, Fault::BreakAfter(10_000));
    let error = message(world.model());
    assert!(error.contains("kept"), "{error}");
    let len = fs::metadata(world.partial_file().expect("a part"))
        .expect("readable")
        .len();
    assert_eq!(len, 40_000);
    world.standin.clear_requests();
    let folder = world.model().expect("the stand-in behaves now");
    let resumed = world
        .requests_for(WEIGHTS)
        .into_iter()
        .find(|request| request.server == Server::Storage);
    assert_eq!(
        resumed.expect("a request").header("range"),
        Some("bytes=40000-")
    );
    world.assert_weights(&folder);
}

#[test]
fn an_interrupt_leaves_the_part_even_while_the_connection_hangs() {
    let mut world = World::new();
    world.config.silence = Duration::from_secs(60);
    world
        .standin
        .fail(Server::Storage, WEIGHTS, 1, Fault::StallAfter(100_000));
    let start = Instant::now();
    let result = world.model_watched(&mut StopAt(100_000));
    assert!(matches!(result, Err(HubError::Interrupted)), "{result:?}");
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(
        fs::metadata(world.partial_file().expect("a part"))
            .expect("readable")
            .len(),
        100_000
    );
    let folder = world.model().expect("the stand-in behaves now");
    world.assert_weights(&folder);
}

#[test]
fn an_interrupt_stops_a_drip_a_pause_and_the_wait_for_a_head() {
    for fault in [
        Fault::Drip(Duration::from_millis(20)),
        Fault::Status(503, vec![]),
        Fault::Status(429, headers(&[("retry-after", "2")])),
    ] {
        let mut world = World::new();
        world.config.first_pause = Duration::from_secs(2);
        world
            .standin
            .fail(Server::Storage, WEIGHTS, 9, fault.clone());
        let start = Instant::now();
        struct After(Instant);
        impl Watcher for After {
            fn interrupted(&mut self) -> bool {
                self.0.elapsed() > Duration::from_millis(300)
            }
        }
        let result = world.model_watched(&mut After(start));
        assert!(
            matches!(result, Err(HubError::Interrupted)),
            "{fault:?}: {result:?}"
        );
        assert!(
            start.elapsed() < Duration::from_secs(2),
            "{fault:?}: {:?}",
            start.elapsed()
        );
    }
}

#[test]
fn a_part_that_was_spoilt_on_the_disk_is_fetched_again() {
    let world = World::new();
    world
        .standin
        .fail(Server::Storage, WEIGHTS, 4, Fault::BreakAfter(10_000));
    message(world.model());
    let path = world.partial_file().expect("a part");
    fs::write(&path, vec![0; 40_000]).expect("written");
    let folder = world
        .model()
        .expect("the checksum tells, the second try is whole");
    world.assert_weights(&folder);

    let world = World::new();
    world
        .standin
        .fail(Server::Storage, WEIGHTS, 4, Fault::BreakAfter(10_000));
    message(world.model());
    let path = world.partial_file().expect("a part");
    fs::write(&path, vec![0; 400_000]).expect("written");
    let folder = world.model().expect("a part that is too long is no part");
    world.assert_weights(&folder);
}

#[test]
fn statuses_that_may_pass_are_tried_again_a_bounded_number_of_times() {
    for status in [500, 502, 503, 504, 408] {
        let world = World::new();
        world
            .standin
            .fail(Server::Hub, "/api/", 3, Fault::Status(status, vec![]));
        world
            .model()
            .expect("three failures are within the retries");
        assert_eq!(world.requests_for("/api/").len(), 4);

        let world = World::new();
        world
            .standin
            .fail(Server::Hub, "/api/", 99, Fault::Status(status, vec![]));
        let error = message(world.model());
        assert!(error.contains(&format!("answers {status}")), "{error}");
        assert_eq!(world.requests_for("/api/").len(), 4);
    }
}

#[test]
fn retry_after_is_honoured_and_bounded() {
    let world = World::new();
    let fault = Fault::Status(429, headers(&[("retry-after", "1")]));
    world.standin.fail(Server::Hub, "/api/", 1, fault);
    let start = Instant::now();
    world.model().expect("the hub said when");
    assert!(start.elapsed() >= Duration::from_secs(1));

    let world = World::new();
    let fault = Fault::Status(429, headers(&[("retry-after", "3600")]));
    world.standin.fail(Server::Hub, "/api/", 99, fault);
    let start = Instant::now();
    let error = message(world.model());
    assert!(error.contains("wait 3600 s"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(1));
    assert_eq!(world.requests_for("/api/").len(), 1);
}

#[test]
fn refusals_name_the_next_action_and_are_not_repeated() {
    let gated = headers(&[("x-error-code", "GatedRepo")]);
    let cases = [
        (401, vec![], "token in HF_TOKEN is valid"),
        (403, vec![], "token in HF_TOKEN may read"),
        (401, gated.clone(), "accept its terms at http"),
        (403, gated, "accept its terms at http"),
        (404, vec![], "spelling of org/name"),
        (
            404,
            headers(&[("x-error-code", "RevisionNotFound")]),
            "revision main not found",
        ),
        (
            400,
            headers(&[("x-error-message", "no such thing")]),
            "400: no such thing",
        ),
    ];
    for (status, headers, words) in cases {
        let world = World::new();
        world
            .standin
            .fail(Server::Hub, "/api/", 99, Fault::Status(status, headers));
        let error = message(world.model());
        assert!(error.contains(words), "{status}: {error:?} lacks {words:?}");
        assert_eq!(world.requests_for("/api/").len(), 1, "{status}");
    }

    let mut world = World::new();
    world.standin.require_token("hf_other");
    world.config.token = None;
    let error = message(world.model());
    assert!(error.contains("set HF_TOKEN to a token"), "{error}");
}

#[test]
fn a_renamed_repository_is_followed_with_the_token() {
    let world = World::new();
    let moved = |to: &str| Fault::Status(307, headers(&[("location", to)]));
    world.standin.fail(
        Server::Hub,
        "/api/",
        1,
        moved("/api/models/org/base/revision/main?blobs=true"),
    );
    let absolute = format!(
        "{}/api/models/org/base/revision/main?blobs=true",
        world.standin.endpoint()
    );
    world
        .standin
        .fail(Server::Hub, "/api/", 1, moved(&absolute));
    world
        .standin
        .fail(Server::Hub, "/api/", 1, moved("main?blobs=true"));
    let folder = world.model().expect("three redirects within the hub");
    world.assert_weights(&folder);
}

#[test]
fn no_hub_at_all_is_a_transport_error_with_the_address() {
    let mut world = World::new();
    world.config.endpoint = "http://127.0.0.1:1".into();
    let error = message(world.model());
    assert!(
        error.contains("127.0.0.1:1") && error.contains("HF_ENDPOINT"),
        "{error}"
    );
}

#[test]
fn a_hub_that_does_not_speak_tls_gets_no_request() {
    let mut world = World::new();
    world.config.endpoint = world.standin.endpoint().replace("http://", "https://");
    let error = message(world.model());
    assert!(error.contains("https://127.0.0.1"), "{error}");
    assert!(error.contains("check the network"), "{error}");
    for request in world.standin.requests() {
        assert_eq!(request.header("authorization"), None);
    }
}

#[test]
fn two_fetches_at_once_download_each_file_once() {
    let world = World::new();
    // Slow enough that all three want the same file.
    let fault = Fault::Drip(Duration::from_millis(200));
    world
        .standin
        .fail(Server::Hub, "GET /org/base/resolve", 1, fault);
    std::thread::scope(|scope| {
        let fetches: Vec<_> = (0..3).map(|_| scope.spawn(|| world.model())).collect();
        for fetch in fetches {
            let folder = fetch.join().expect("no panic").expect("fetched");
            assert_eq!(
                fs::read(folder.join("model.safetensors")).expect("whole"),
                weights()
            );
        }
    });
    for file in ["/config.json", WEIGHTS] {
        let is_download = |r: &&Recorded| r.method == "GET" && r.server == Server::Hub;
        assert_eq!(
            world.requests_for(file).iter().filter(is_download).count(),
            1,
            "{file}"
        );
    }
    world.assert_clean();
}
