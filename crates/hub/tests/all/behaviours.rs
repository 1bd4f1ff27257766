//! The counts that docs/reliability.md gives: hostile names wherever a name can stand, and hostile
//! servers, each with its outcome. After every one of them nothing lies outside of the cache, nothing
//! in it is wrong, the token was seen by nobody but the endpoint, and no time was lost.

// docs/reliability.md quotes the counts that are printed here.
#![allow(clippy::print_stdout)]

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use hub::{
    name::{DatasetId, RepoId},
    standin::{FIRST_COMMIT, Fault, Server},
};
use serde_json::json;

use crate::support::{CANARY, WEIGHTS, World, headers, listing, message, status, weights};

/// The end of a fetch from a hostile server.
enum Verdict {
    /// The model is fetched all the same, and is right.
    Fetched,
    /// An error with these words, and no weights.
    Refused(&'static str),
}
use Verdict::{Fetched, Refused};

/// Name, server, part of the request, number of times, fault and verdict.
type Behaviour = (&'static str, Server, &'static str, usize, Fault, Verdict);

/// A role that a path is offered in, with the way to do so.
type Offer<'a> = (&'static str, &'a dyn Fn(&World));

/// The longest time of any of them, with four attempts and 0.6 s of patience for each.
const LONGEST: Duration = Duration::from_secs(20);

/// The most requests to any of them.
const MOST_REQUESTS: usize = 60;

/// A redirect; `STORAGE` in the address stands for that of the storage.
fn redirect(location: &str) -> Fault {
    status(302, &[("location", location)])
}

/// `fault` with the address of the world's storage filled in.
fn located(mut fault: Fault, world: &World) -> Fault {
    if let Fault::Status(_, headers) = &mut fault {
        for (_, value) in headers {
            *value = value.replace("STORAGE", &world.standin.storage());
        }
    }
    fault
}

fn raw(text: impl AsRef<[u8]>) -> Fault {
    Fault::Raw(text.as_ref().to_vec())
}

fn body(text: impl AsRef<[u8]>) -> Fault {
    Fault::Body(text.as_ref().to_vec())
}

/// Looks at everything that a fetch may have touched.
#[track_caller]
fn assert_harmless(world: &World, name: &str) {
    world.assert_clean();
    assert_eq!(world.outside_the_cache(), Vec::<String>::new(), "{name}");
    for file in world.cached_files() {
        let bytes = fs::read(world.cache().join(&file)).expect("readable");
        let is_whole = file.contains("/snapshots/") || file.contains("/blobs/");
        if !is_whole || file.ends_with(".incomplete") {
            continue;
        }
        let honest: [&[u8]; 4] = [b"{}", b"{\"tokens\":1}", b"a\nb\n", &weights()];
        assert!(
            honest.contains(&bytes.as_slice()),
            "{name}: {file} is wrong"
        );
    }
}

#[rustfmt::skip]
fn behaviours() -> Vec<Behaviour> {
    use Server::{Hub, Storage};
    const API: &str = "/api/";
    const CONFIG: &str = "GET /org/base/resolve/1111111111111111111111111111111111111111/config";
    const HEAD: &str = "HEAD /org/base/resolve/1111111111111111111111111111111111111111/model";
    const GET: &str = "GET /org/base/resolve/1111111111111111111111111111111111111111/model";
    const LARGE: &str = "/model.safetensors";
    let html = "<!DOCTYPE html><title>Sign in</title>";
    let many: String = (0..5000).map(|i| format!("x-{i}: {i}\r\n")).collect();
    let sized = |size: i64| json!({"sha": FIRST_COMMIT, "siblings": [{"rfilename": "config.json", "size": size}]});
    let etag = || headers(&[("x-linked-etag", "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"")]);
    let two_lengths = "HTTP/1.1 200 x\r\ncontent-length: 4\r\ncontent-length: 300000\r\n\r\nabcd";
    let false_chunk = "HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}";
    let broken_location = "HTTP/1.1 302 x\r\nlocation: /a\u{1}b\r\ncontent-length: 0\r\n\r\n";
    vec![
        // Redirects.
        ("redirects the listing to another host", Hub, API, 9, redirect("STORAGE/x"), Refused("")),
        ("redirects the listing in a circle", Hub, API, 99, redirect("?again"), Refused("too many redirects")),
        ("redirects the weights in a circle", Storage, LARGE, 99, redirect("?again"), Refused("too many redirects")),
        ("redirects the weights within the storage", Storage, LARGE, 9, redirect("STORAGE/elsewhere"), Refused("answers 403")),
        ("redirects to a file", Hub, GET, 9, redirect("file:///etc/passwd"), Refused("scheme other than")),
        ("redirects the listing to FTP", Hub, API, 1, redirect("ftp://127.0.0.1/x"), Refused("scheme other than")),
        ("redirects the listing to a script", Hub, API, 1, redirect("javascript:alert(1)"), Refused("not an http(s) address")),
        ("redirects the listing to data", Hub, API, 1, redirect("data:text/plain,x"), Refused("not an http(s) address")),
        ("redirects the listing to no host", Hub, API, 1, redirect("http:///x"), Refused("no valid host")),
        ("redirects the listing to a host with a space", Hub, API, 1, redirect("http://ho st/x"), Refused("white space")),
        ("redirects the listing to a port of letters", Hub, API, 1, redirect("http://host:x/"), Refused("port")),
        ("redirects the listing to a missing file", Hub, API, 1, redirect("/org/base/resolve/loop"), Refused("not found")),
        ("redirects with a password", Hub, GET, 9, redirect("http://user:pw@127.0.0.1/x"), Refused("user name or password")),
        ("redirects without a location", Hub, GET, 9, status(302, &[]), Refused("without a Location")),
        ("redirects the listing without a location", Hub, API, 1, status(302, &[]), Refused("without a Location")),
        ("redirects to a header of its own", Hub, GET, 9, raw(broken_location), Refused("")),
        ("hands back the request's token as an address", Hub, GET, 9, redirect("STORAGE/?t=x"), Refused("")),
        // Lengths.
        ("announces a byte too few", Storage, LARGE, 9, Fault::WrongLength(-1), Refused("where the hub announced 300000")),
        ("announces a byte too many", Storage, LARGE, 9, Fault::WrongLength(1), Refused("where the hub announced 300000")),
        ("announces a terabyte", Storage, LARGE, 9, Fault::WrongLength(1 << 40), Refused("where the hub announced 300000")),
        ("announces a length past 64 bits", Storage, LARGE, 9, headers(&[("content-length", "99999999999999999999999")]), Refused("")),
        ("announces a negative length", Storage, LARGE, 9, headers(&[("content-length", "-5")]), Refused("")),
        ("announces two lengths", Storage, LARGE, 9, raw(two_lengths), Refused("")),
        ("links to another size than it lists", Hub, HEAD, 9, headers(&[("x-linked-size", "299999")]), Refused("299999 bytes where the hub announced 300000")),
        ("links to a size that is no number", Hub, HEAD, 9, headers(&[("x-linked-size", "many")]), Refused("X-Linked-Size is no number")),
        // Bodies.
        ("breaks off once", Storage, LARGE, 1, Fault::BreakAfter(1000), Fetched),
        ("breaks off each time at the same byte", Storage, LARGE, 99, Fault::BreakAfter(0), Refused("")),
        ("sends two megabytes without a length", Storage, LARGE, 9, Fault::Endless(vec![7; 2_000_000]), Refused("announced 300000")),
        ("never stops sending the weights", Storage, LARGE, 9, Fault::Forever(vec![7; 65536]), Refused("announced 300000")),
        ("never stops sending the listing", Hub, API, 9, Fault::Forever(vec![b' '; 1 << 20]), Refused("longer than")),
        ("never stops sending headers", Hub, API, 9, raw_head_forever(), Refused("")),
        ("falls silent in the head", Hub, API, 99, Fault::StallAfter(0), Refused("")),
        ("falls silent in the weights", Storage, LARGE, 99, Fault::StallAfter(5), Refused("")),
        ("falls silent in the weights once", Storage, LARGE, 1, Fault::StallAfter(1000), Fetched),
        ("hangs up before any answer", Hub, API, 99, Fault::HangUp, Refused("")),
        ("hangs up twice", Hub, API, 2, Fault::HangUp, Fetched),
        ("sends other weights of the right length", Storage, LARGE, 99, Fault::Body(vec![7; 300_000]), Refused("sha256")),
        ("sends another small file of the right length", Hub, CONFIG, 99, body("{]"), Refused("git sha1")),
        ("sends a gzip bomb as the listing", Hub, API, 9, Fault::Raw(gzip_bomb(400_000)), Refused("longer than")),
        ("says that the listing is packed", Hub, API, 9, headers(&[("content-encoding", "gzip")]), Refused("gzip decompression failed")),
        ("says that the weights are packed", Storage, LARGE, 9, headers(&[("content-encoding", "br")]), Fetched),
        ("sends a page in the place of the listing", Hub, API, 9, body(html), Refused("does not behave like")),
        ("sends a page in the place of the weights", Storage, LARGE, 99, body(html), Refused("")),
        ("sends nothing as the listing", Hub, API, 9, body(""), Refused("does not behave like")),
        ("sends bytes that are no text as the listing", Hub, API, 9, Fault::Body(vec![0xff; 100]), Refused("does not behave like")),
        ("lists with brackets 200,000 deep", Hub, API, 9, Fault::Body(vec![b'['; 200_000]), Refused("does not behave like")),
        ("lists in an array", Hub, API, 9, body("[]"), Refused("does not behave like")),
        ("lists a size that is negative", Hub, API, 9, body(sized(-1).to_string()), Refused("does not behave like")),
        ("lists a commit that is a path", Hub, API, 9, body(r#"{"sha":"../../x","siblings":[]}"#), Refused("does not behave like")),
        ("lists a commit that is a branch", Hub, API, 9, body(r#"{"sha":"main","siblings":[]}"#), Refused("does not behave like")),
        ("lists a commit that is a number", Hub, API, 9, body(r#"{"sha":1}"#), Refused("does not behave like")),
        ("lists a file twice", Hub, API, 9, listing(&["a", "a"]), Refused("does not behave like")),
        ("sends chunks that lie about their length", Hub, API, 9, raw(false_chunk), Refused("")),
        // Heads.
        ("speaks no HTTP", Hub, API, 99, raw("\u{0}\u{1}\u{2} hello\r\n\r\n"), Refused("")),
        ("sends 5,000 headers", Hub, API, 99, raw(format!("HTTP/1.1 200 x\r\n{many}\r\n")), Refused("")),
        ("sends a header of 10 MB", Hub, API, 99, raw(format!("HTTP/1.1 200 x\r\nx: {}\r\n\r\n", "y".repeat(10_000_000))), Refused("")),
        ("names a blob by a path", Hub, HEAD, 9, headers(&[("x-linked-etag", "\"../../../../x\"")]), Refused("")),
        ("names another blob once", Hub, GET, 1, etag(), Fetched),
        ("names another blob each time", Hub, GET, 99, etag(), Refused("the ETag changed")),
        ("names another blob than it lists", Hub, HEAD, 99, etag(), Refused("sha256 aaaa")),
        ("names another commit", Hub, HEAD, 9, headers(&[("x-repo-commit", "../x")]), Refused("X-Repo-Commit")),
        // Ranges, after a part of the weights has come.
        ("ignores the range", Storage, LARGE, 1, Fault::IgnoreRange, Fetched),
        ("sends the wrong range", Storage, LARGE, 1, Fault::WrongRange, Fetched),
        ("answers 416 to a good range", Storage, LARGE, 1, status(416, &[("content-range", "bytes */7")]), Fetched),
        // Statuses.
        ("answers 401", Hub, API, 99, status(401, &[]), Refused("token")),
        ("answers 403", Hub, API, 99, status(403, &[]), Refused("token")),
        ("answers 404", Hub, API, 99, status(404, &[]), Refused("spelling")),
        ("answers 429 for an hour", Hub, API, 99, status(429, &[("retry-after", "3600")]), Refused("wait 3600 s")),
        ("answers 429 for ever", Hub, API, 99, status(429, &[("retry-after", "99999999999999999999")]), Refused("")),
        ("answers 500", Hub, API, 99, status(500, &[]), Refused("answers 500")),
        ("answers 503 once", Hub, API, 1, status(503, &[]), Fetched),
        ("answers 403 where a signed address grew old", Storage, LARGE, 1, status(403, &[]), Fetched),
        ("answers 999", Hub, API, 99, status(999, &[]), Refused("")),
        ("says things in an error that a terminal obeys", Hub, API, 99, status(400, &[("x-error-message", "\u{9b}2Jgone")]), Refused("")),
    ]
}

#[test]
fn hostile_servers_do_no_harm() {
    let behaviours = behaviours();
    let n = behaviours.len();
    let mut slowest = Duration::ZERO;
    let mut wrong = Vec::new();
    for (name, server, part, times, fault, verdict) in behaviours {
        let world = World::new();
        if name.contains("range") {
            world
                .standin
                .fail(Server::Storage, WEIGHTS, 1, Fault::BreakAfter(100_000));
        }
        let fault = located(fault, &world);
        world.standin.fail(server, part, times, fault);
        let start = Instant::now();
        let fetched = world.model();
        let elapsed = start.elapsed();
        slowest = slowest.max(elapsed);
        assert!(elapsed < LONGEST, "{name}: took {elapsed:?}");
        let n_requests = world.standin.requests().len();
        assert!(n_requests < MOST_REQUESTS, "{name}: {n_requests} requests");
        match (verdict, fetched) {
            (Fetched, Ok(folder)) => world.assert_weights(&folder),
            (Fetched, Err(error)) => wrong.push(format!("{name}: {error}")),
            (Refused(_), Ok(_)) => wrong.push(format!("{name}: fetched")),
            (Refused(words), fetched) => {
                let error = message(fetched);
                if !error.contains(words)
                    || error.len() > 2000
                    || error.chars().any(char::is_control)
                {
                    let start: String = error.chars().take(300).collect();
                    wrong.push(format!("{name}: {start:?}, expected {words:?}"));
                }
                let has_partial = world.partial_file().is_some();
                if has_partial && error.contains("nothing was kept") {
                    wrong.push(format!("{name}: something was kept"));
                }
                assert_harmless(&world, name);
                world.standin.heal();
                match world.model() {
                    Ok(folder) => world.assert_weights(&folder),
                    Err(error) => wrong.push(format!("{name}: then honest: {error}")),
                }
            }
        }
        assert_harmless(&world, name);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!(
        "{n} hostile server behaviours, slowest {:.1} s",
        slowest.as_secs_f64()
    );
}

/// An answer of half a megabyte that unpacks to `n_runs` times 258 spaces.
fn gzip_bomb(n_runs: usize) -> Vec<u8> {
    // One block with deflate's fixed codes: a space, then runs of length 258 at distance 1.
    let mut bits: Vec<(u32, u32)> = vec![(1, 1), (1, 2), (0b0000_1010, 8)];
    bits.extend(std::iter::repeat_n([(0b1010_0011, 8), (0, 5)], n_runs).flatten());
    let mut packed = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    let (mut byte, mut n_bits) = (0_u32, 0);
    for (value, width) in bits {
        byte |= value << n_bits;
        n_bits += width;
        while n_bits >= 8 {
            packed.push(byte as u8);
            byte >>= 8;
            n_bits -= 8;
        }
    }
    packed.push(byte as u8);
    let head = format!(
        "HTTP/1.1 200 x\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
        packed.len()
    );
    [head.into_bytes(), packed].concat()
}

fn raw_head_forever() -> Fault {
    Fault::RawForever(
        b"HTTP/1.1 200 x\r\n".to_vec(),
        b"x-more: and more\r\n".to_vec(),
    )
}

/// Each is offered as a file in the listing, as a module's path, as a shard, as a repository, as a
/// revision and as a subset.
#[test]
fn hostile_paths_lead_nowhere() {
    let long = "x/".repeat(600);
    let part = "x".repeat(300);
    let paths: Vec<&str> = vec![
        "..",
        "../x",
        "../../../../etc/passwd",
        "a/../../x",
        "a/..",
        "a/../../../b",
        "./../x",
        "..//x",
        "/",
        "/etc/passwd",
        "//server/share",
        "///x",
        "/proc/self/environ",
        "..\\x",
        "\\\\server\\share",
        "\\\\?\\C:\\x",
        "a\\..\\..\\x",
        "\\x",
        "C:\\x",
        "C:/x",
        "c:x",
        "Z:",
        "a\0b",
        "\0",
        "x\0.safetensors",
        "a\nb",
        "a\rb",
        "a\u{1b}[2Jb",
        "a\u{7f}",
        "a\u{85}b",
        "a\u{202e}b",
        "a\u{200b}b",
        "\u{feff}a",
        "a\u{2028}b",
        "a\u{2066}b",
        "a//b",
        "a/./b",
        "./a",
        "a/",
        " /x",
        "",
        ".",
        "~/x/../../y",
        "file:///etc/passwd",
        "http://127.0.0.1/../x",
        "%2e%2e/../x",
        "..%2f..%2fx/..",
        "x/..;/y/../..",
        "....//../..",
        "a/b/c/d/../../../../../e",
        "aux/../..",
        "nul\0",
        "con:/../..",
        "$(touch x)/../..",
        "`x`/../../y",
        "x|y/../..",
        &long,
        &part,
    ];
    assert!(paths.len() >= 50, "{} paths", paths.len());
    let mut n_offered = 0;
    let mut accepted = Vec::new();
    for path in &paths {
        assert!(RepoId::parse(path).is_err(), "{path:?} as a repository");
        assert!(
            RepoId::parse(&format!("org/{path}")).is_err(),
            "{path:?} as a name"
        );
        assert!(
            RepoId::parse(&format!("{path}/name")).is_err(),
            "{path:?} as an organisation"
        );
        assert!(
            RepoId::parse(&format!("org/name@{path}")).is_err(),
            "{path:?} as a revision"
        );
        assert!(
            DatasetId::parse(&format!("org/name:{path}")).is_err(),
            "{path:?} as a subset"
        );
        n_offered += 5;

        let siblings = ["config.json", "tokenizer.json", "model.safetensors", path];
        let siblings = siblings.map(|name| json!({"rfilename": name, "size": 2}));
        let listing = json!({"sha": FIRST_COMMIT, "siblings": siblings}).to_string();
        let modules = json!([{"path": ""}, {"path": path}]).to_string();
        let index = json!({"weight_map": {"a": path}}).to_string();
        let offers: [Offer<'_>; 3] = [
            ("a listed file", &|world| {
                let fault = Fault::Body(listing.clone().into_bytes());
                world.standin.fail(Server::Hub, "/api/", 1, fault);
            }),
            ("a module", &|world| {
                world
                    .standin
                    .model("org/base")
                    .small("modules.json", &modules);
            }),
            ("a shard", &|world| {
                let repo = world.standin.model("org/base").remove("model.safetensors");
                repo.small("model.safetensors.index.json", &index);
            }),
        ];
        for (what, offer) in offers {
            let world = World::new();
            offer(&world);
            let fetched = world.model();
            match fetched {
                Ok(_) => accepted.push((what, *path)),
                Err(_) => {
                    let error = message(fetched);
                    assert!(!error.chars().any(char::is_control), "{path:?}: {error:?}");
                    // A space at the start spoils a file that is fetched, and no listing.
                    if !(*path == " /x" && what == "a listed file") {
                        assert!(
                            error.starts_with("file in the repository"),
                            "{path:?} as {what}: {error}"
                        );
                    }
                }
            }
            world.assert_clean();
            assert_eq!(
                world.outside_the_cache(),
                Vec::<String>::new(),
                "{path:?} as {what}"
            );
            let is_spoilt = what == "a listed file" && *path != " /x";
            assert!(
                !is_spoilt || world.cached_files().is_empty(),
                "{path:?} left something"
            );
            for file in world.cached_files() {
                assert!(
                    !Path::new(&file)
                        .components()
                        .any(|part| part.as_os_str() == "..")
                );
                assert!(!file.contains(CANARY));
            }
            n_offered += 1;
        }
    }
    // A path to the model's own folder, or to one in it, does no harm.
    assert_eq!(
        accepted,
        [("a module", "/"), ("a module", "a/"), ("a module", "")]
    );
    println!("{} hostile paths, offered {n_offered} times", paths.len());
}
