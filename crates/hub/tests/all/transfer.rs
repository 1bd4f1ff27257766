//! One file on its way: resumes, checks, retries, redirects, interrupts.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use hub::{
    error::HubError,
    standin::{Fault, Recorded, Server},
    watcher::Watcher,
};

use crate::support::{World, message, weights};

const WEIGHTS: &str = "/model.safetensors";

fn headers(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

/// The part file of the weights, if it is there.
fn part(world: &World) -> Option<PathBuf> {
    let found = world
        .cached_files()
        .into_iter()
        .find(|file| file.ends_with(".incomplete"));
    found.map(|file| world.cache().join(file))
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

#[track_caller]
fn assert_weights(world: &World, folder: PathBuf) {
    assert_eq!(
        fs::read(folder.join("model.safetensors")).expect("the weights"),
        weights()
    );
    assert_eq!(part(world), None);
    world.assert_clean();
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
    assert_weights(&world, folder);
}

#[test]
fn the_next_run_takes_up_what_the_last_one_left() {
    let world = World::new();
    world
        .standin
        .fail(Server::Storage, WEIGHTS, 4, Fault::BreakAfter(10_000));
    let error = message(world.model());
    assert!(error.contains("kept"), "{error}");
    let len = fs::metadata(part(&world).expect("a part"))
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
    assert_weights(&world, folder);
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
        fs::metadata(part(&world).expect("a part"))
            .expect("readable")
            .len(),
        100_000
    );
    let folder = world.model().expect("the stand-in behaves now");
    assert_weights(&world, folder);
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
fn a_silent_connection_counts_as_broken() {
    let world = World::new();
    world
        .standin
        .fail(Server::Storage, WEIGHTS, 1, Fault::StallAfter(1_000));
    let folder = world.model().expect("a retry helps");
    assert_weights(&world, folder);
}

#[test]
fn a_server_without_ranges_gets_a_fresh_start() {
    let world = World::new();
    world
        .standin
        .fail(Server::Storage, WEIGHTS, 1, Fault::BreakAfter(100_000));
    world
        .standin
        .fail(Server::Storage, WEIGHTS, 1, Fault::IgnoreRange);
    let folder = world.model().expect("200 is an answer too");
    assert_weights(&world, folder);
}

#[test]
fn the_wrong_range_is_thrown_away() {
    let world = World::new();
    world
        .standin
        .fail(Server::Storage, WEIGHTS, 1, Fault::BreakAfter(100_000));
    world
        .standin
        .fail(Server::Storage, WEIGHTS, 1, Fault::WrongRange);
    let folder = world.model().expect("a fresh start helps");
    assert_weights(&world, folder);
}

#[test]
fn a_part_that_was_spoilt_on_the_disk_is_fetched_again() {
    let world = World::new();
    world
        .standin
        .fail(Server::Storage, WEIGHTS, 4, Fault::BreakAfter(10_000));
    message(world.model());
    let path = part(&world).expect("a part");
    fs::write(&path, vec![0; 40_000]).expect("written");
    let folder = world
        .model()
        .expect("the checksum tells, the second try is whole");
    assert_weights(&world, folder);

    let world = World::new();
    world
        .standin
        .fail(Server::Storage, WEIGHTS, 4, Fault::BreakAfter(10_000));
    message(world.model());
    let path = part(&world).expect("a part");
    fs::write(&path, vec![0; 400_000]).expect("written");
    let folder = world.model().expect("a part that is too long is no part");
    assert_weights(&world, folder);
}

#[test]
fn a_wrong_sha256_is_never_kept() {
    let world = World::new();
    let mut lie = weights();
    lie[299_999] ^= 1;
    world
        .standin
        .fail(Server::Storage, WEIGHTS, 1, Fault::Body(lie));
    let error = message(world.model());
    assert!(
        error.contains("model.safetensors") && error.contains("sha256"),
        "{error}"
    );
    assert_eq!(part(&world), None);
    assert!(
        !world
            .cached_files()
            .iter()
            .any(|file| file.ends_with("model.safetensors"))
    );
    assert!(
        !world
            .cached_files()
            .iter()
            .any(|file| file.contains("/refs/"))
    );
    let folder = world.model().expect("the stand-in behaves now");
    assert_weights(&world, folder);
}

#[test]
fn a_small_file_is_checked_by_the_sha1_of_git() {
    let world = World::new();
    world.standin.fail(
        Server::Hub,
        "GET /org/base/resolve",
        1,
        Fault::Body(b"{]".to_vec()),
    );
    let error = message(world.model());
    assert!(
        error.contains("config.json") && error.contains("git sha1"),
        "{error}"
    );
    assert_eq!(part(&world), None);
}

#[test]
fn lengths_that_disagree_are_refused() {
    // Content-Length at the storage against X-Linked-Size, each way.
    for more in [-1, 1, 1_000_000] {
        let world = World::new();
        world
            .standin
            .fail(Server::Storage, WEIGHTS, 9, Fault::WrongLength(more));
        let error = message(world.model());
        assert!(
            error.contains("bytes where the hub announced 300000"),
            "{error}"
        );
        world.assert_clean();
    }
    // X-Linked-Size against the listing.
    let world = World::new();
    let fault = Fault::Headers(headers(&[("x-linked-size", "299999")]));
    world.standin.fail(
        Server::Hub,
        "HEAD /org/base/resolve/1111111111111111111111111111111111111111/model",
        9,
        fault,
    );
    let error = message(world.model());
    assert!(
        error.contains("299999 bytes where the hub announced 300000"),
        "{error}"
    );
    // A body without end.
    let world = World::new();
    world.standin.fail(
        Server::Storage,
        WEIGHTS,
        9,
        Fault::Endless(vec![7; 2_000_000]),
    );
    let error = message(world.model());
    assert!(error.contains("announced 300000"), "{error}");
    assert!(
        world
            .cached_files()
            .iter()
            .all(|file| !file.ends_with("model.safetensors"))
    );
}

#[test]
fn an_etag_that_changes_in_between_starts_again() {
    let world = World::new();
    let other = "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"";
    let fault = Fault::Headers(headers(&[("x-linked-etag", other)]));
    world.standin.fail(
        Server::Hub,
        "GET /org/base/resolve/1111111111111111111111111111111111111111/model",
        1,
        fault,
    );
    let folder = world.model().expect("the second look agrees");
    assert_weights(&world, folder);

    // An ETag that never agrees with the listing is an error, whatever the storage delivers.
    let world = World::new();
    let fault = Fault::Headers(headers(&[("x-linked-etag", other)]));
    world.standin.fail(
        Server::Hub,
        "/org/base/resolve/1111111111111111111111111111111111111111/model",
        99,
        fault,
    );
    let error = message(world.model());
    assert!(error.contains("sha256 aaaa"), "{error}");
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
    let world = World::new();
    world.standin.fail(Server::Hub, "/api/", 2, Fault::HangUp);
    world
        .model()
        .expect("a connection that hangs up may be tried again");
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
fn a_signed_address_that_grew_old_is_asked_for_again() {
    let world = World::new();
    world
        .standin
        .fail(Server::Storage, WEIGHTS, 1, Fault::Status(403, vec![]));
    let folder = world.model().expect("the hub gives a fresh one");
    assert_weights(&world, folder);
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
    assert_weights(&world, folder);
}

#[test]
fn redirects_that_lead_nowhere_good_are_refused() {
    let cases = [
        ("file:///etc/passwd", "scheme other than"),
        ("ftp://127.0.0.1/x", "scheme other than"),
        ("javascript:alert(1)", "not an http(s) address"),
        ("data:text/plain,x", "not an http(s) address"),
        ("http://user:pw@127.0.0.1/x", "user name or password"),
        ("http:///x", "no valid host"),
        ("http://ho st/x", "white space"),
        ("http://host:x/", "port"),
        ("/org/base/resolve/loop", "not found"),
    ];
    for (location, words) in cases {
        let world = World::new();
        let fault = Fault::Status(302, headers(&[("location", location)]));
        world.standin.fail(Server::Hub, "/api/", 1, fault);
        let error = message(world.model());
        assert!(
            error.contains(words),
            "{location}: {error:?} lacks {words:?}"
        );
        assert!(!error.contains("pw@"), "{error}");
        world.assert_clean();
    }
    for (server, part) in [(Server::Hub, "/api/"), (Server::Storage, WEIGHTS)] {
        let world = World::new();
        let fault = Fault::Status(302, headers(&[("location", "?again")]));
        world.standin.fail(server, part, 99, fault);
        let error = message(world.model());
        assert!(error.contains("too many redirects"), "{error}");
        assert!(world.standin.requests().len() < 40);
        world.assert_clean();
    }
    let world = World::new();
    world
        .standin
        .fail(Server::Hub, "/api/", 1, Fault::Status(302, vec![]));
    let error = message(world.model());
    assert!(error.contains("without a Location"), "{error}");
}

#[test]
fn the_storage_never_sees_the_token_even_when_it_redirects_back() {
    let world = World::new();
    let back = format!("{}/elsewhere", world.standin.storage());
    let fault = Fault::Status(302, headers(&[("location", &back)]));
    world.standin.fail(Server::Storage, WEIGHTS, 9, fault);
    message(world.model());
    let seen: Vec<_> = world
        .standin
        .requests()
        .into_iter()
        .filter(|r| r.server == Server::Storage)
        .collect();
    assert!(seen.len() > 1, "{seen:?}");
    world.assert_clean();
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
