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

use crate::support::{CANARY, World, message, weights};

/// The end of a fetch from a hostile server.
enum Verdict {
    /// The model is fetched all the same, and is right.
    Fetched,
    /// An error with these words, and no weights.
    Refused(&'static str),
}
use Verdict::{Fetched, Refused};

/// Name, server, part of the request, number of times, fault and verdict.
type Behaviour = (
    &'static str,
    Server,
    &'static str,
    usize,
    Box<dyn Fn(&World) -> Fault>,
    Verdict,
);

/// A role that a path is offered in, with the way to do so.
type Offer<'a> = (&'static str, &'a dyn Fn(&World));

/// How long any of them may take, with four attempts and 0.6 s of patience for each.
const LONGEST: Duration = Duration::from_secs(20);

fn headers(pairs: &[(&str, &str)]) -> Fault {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Fault::Headers(pairs.iter().map(owned).collect())
}

fn status(status: u16, pairs: &[(&str, &str)]) -> Fault {
    match headers(pairs) {
        Fault::Headers(headers) => Fault::Status(status, headers),
        _ => Fault::Status(status, Vec::new()),
    }
}

fn raw(text: &str) -> Fault {
    Fault::Raw(text.as_bytes().to_vec())
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

#[test]
fn hostile_servers_do_no_harm() {
    use Server::{Hub, Storage};
    const API: &str = "/api/";
    const CONFIG: &str = "GET /org/base/resolve/1111111111111111111111111111111111111111/config";
    const HEAD: &str = "HEAD /org/base/resolve/1111111111111111111111111111111111111111/model";
    const GET: &str = "GET /org/base/resolve/1111111111111111111111111111111111111111/model";
    const LARGE: &str = "/model.safetensors";
    let html = "<!DOCTYPE html><title>Sign in</title>";
    let many: String = (0..5000).map(|i| format!("x-{i}: {i}\r\n")).collect();
    let bomb = gzip_bomb(400_000);
    let elsewhere = |world: &World, path: &str| format!("{}{path}", world.storage());
    let behaviours: Vec<Behaviour> = vec![
        // Redirects.
        (
            "redirects the listing to another host",
            Hub,
            API,
            9,
            Box::new(move |w| status(302, &[("location", &elsewhere(w, "/x"))])),
            Refused(""),
        ),
        (
            "redirects the listing in a circle",
            Hub,
            API,
            99,
            Box::new(|_| status(302, &[("location", "?again")])),
            Refused("too many redirects"),
        ),
        (
            "redirects the weights in a circle",
            Storage,
            LARGE,
            99,
            Box::new(|_| status(302, &[("location", "?again")])),
            Refused("too many redirects"),
        ),
        (
            "redirects to a file",
            Hub,
            GET,
            9,
            Box::new(|_| status(302, &[("location", "file:///etc/passwd")])),
            Refused("scheme other than"),
        ),
        (
            "redirects with a password",
            Hub,
            GET,
            9,
            Box::new(|_| status(302, &[("location", "http://user:pw@127.0.0.1/x")])),
            Refused("user name or password"),
        ),
        (
            "redirects without saying where to",
            Hub,
            GET,
            9,
            Box::new(|_| status(302, &[])),
            Refused("without a Location"),
        ),
        (
            "redirects to a header of its own",
            Hub,
            GET,
            9,
            Box::new(|_| raw("HTTP/1.1 302 x\r\nlocation: /a\u{1}b\r\ncontent-length: 0\r\n\r\n")),
            Refused(""),
        ),
        (
            "hands back the request's token as an address",
            Hub,
            GET,
            9,
            Box::new(|w| status(302, &[("location", &format!("{}/?t=x", w.storage()))])),
            Refused(""),
        ),
        // Lengths.
        (
            "announces a byte too few",
            Storage,
            LARGE,
            9,
            Box::new(|_| Fault::WrongLength(-1)),
            Refused("where the hub announced 300000"),
        ),
        (
            "announces a byte too many",
            Storage,
            LARGE,
            9,
            Box::new(|_| Fault::WrongLength(1)),
            Refused("where the hub announced 300000"),
        ),
        (
            "announces a terabyte",
            Storage,
            LARGE,
            9,
            Box::new(|_| Fault::WrongLength(1 << 40)),
            Refused("where the hub announced 300000"),
        ),
        (
            "announces a length past 64 bits",
            Storage,
            LARGE,
            9,
            Box::new(|_| headers(&[("content-length", "99999999999999999999999")])),
            Refused(""),
        ),
        (
            "announces a negative length",
            Storage,
            LARGE,
            9,
            Box::new(|_| headers(&[("content-length", "-5")])),
            Refused(""),
        ),
        (
            "announces two lengths",
            Storage,
            LARGE,
            9,
            Box::new(|_| {
                raw("HTTP/1.1 200 x\r\ncontent-length: 4\r\ncontent-length: 300000\r\n\r\nabcd")
            }),
            Refused(""),
        ),
        (
            "links to another size than it lists",
            Hub,
            HEAD,
            9,
            Box::new(|_| headers(&[("x-linked-size", "299999")])),
            Refused("299999 bytes where the hub announced 300000"),
        ),
        (
            "links to a size that is no number",
            Hub,
            HEAD,
            9,
            Box::new(|_| headers(&[("x-linked-size", "many")])),
            Refused("X-Linked-Size is no number"),
        ),
        // Bodies.
        (
            "breaks off once",
            Storage,
            LARGE,
            1,
            Box::new(|_| Fault::BreakAfter(1000)),
            Fetched,
        ),
        (
            "breaks off each time at the same byte",
            Storage,
            LARGE,
            99,
            Box::new(|_| Fault::BreakAfter(0)),
            Refused(""),
        ),
        (
            "never stops sending the weights",
            Storage,
            LARGE,
            9,
            Box::new(|_| Fault::Forever(vec![7; 65536])),
            Refused("announced 300000"),
        ),
        (
            "never stops sending the listing",
            Hub,
            API,
            9,
            Box::new(|_| Fault::Forever(vec![b' '; 1 << 20])),
            Refused("longer than"),
        ),
        (
            "never stops sending headers",
            Hub,
            API,
            9,
            Box::new(|_| raw_head_forever()),
            Refused(""),
        ),
        (
            "falls silent in the head",
            Hub,
            API,
            99,
            Box::new(|_| Fault::StallAfter(0)),
            Refused(""),
        ),
        (
            "falls silent in the weights",
            Storage,
            LARGE,
            99,
            Box::new(|_| Fault::StallAfter(5)),
            Refused(""),
        ),
        (
            "hangs up before any answer",
            Hub,
            API,
            99,
            Box::new(|_| Fault::HangUp),
            Refused(""),
        ),
        (
            "hangs up once",
            Hub,
            API,
            1,
            Box::new(|_| Fault::HangUp),
            Fetched,
        ),
        (
            "sends other weights of the right length",
            Storage,
            LARGE,
            99,
            Box::new(|_| Fault::Body(vec![7; 300_000])),
            Refused("sha256"),
        ),
        (
            "sends another small file of the right length",
            Hub,
            CONFIG,
            99,
            Box::new(|_| Fault::Body(b"{]".to_vec())),
            Refused("git sha1"),
        ),
        (
            "sends a gzip bomb as the listing",
            Hub,
            API,
            9,
            Box::new(move |_| Fault::Raw(bomb.clone())),
            Refused("longer than"),
        ),
        (
            "says that the listing is packed",
            Hub,
            API,
            9,
            Box::new(|_| headers(&[("content-encoding", "gzip")])),
            Refused("gzip decompression failed"),
        ),
        (
            "says that the weights are packed",
            Storage,
            LARGE,
            9,
            Box::new(|_| headers(&[("content-encoding", "br")])),
            Fetched,
        ),
        (
            "sends a page in the place of the listing",
            Hub,
            API,
            9,
            Box::new(move |_| Fault::Body(html.into())),
            Refused("does not behave like"),
        ),
        (
            "sends a page in the place of the weights",
            Storage,
            LARGE,
            99,
            Box::new(move |_| Fault::Body(html.into())),
            Refused(""),
        ),
        (
            "lists with brackets 200,000 deep",
            Hub,
            API,
            9,
            Box::new(|_| Fault::Body(vec![b'['; 200_000])),
            Refused("does not behave like"),
        ),
        (
            "lists a size that is negative",
            Hub,
            API,
            9,
            Box::new(|_| {
                Fault::Body(json!({"sha": FIRST_COMMIT, "siblings": [{"rfilename": "config.json", "size": -1}]}).to_string().into())
            }),
            Refused("does not behave like"),
        ),
        (
            "lists a commit that is a path",
            Hub,
            API,
            9,
            Box::new(|_| Fault::Body(br#"{"sha":"../../x","siblings":[]}"#.to_vec())),
            Refused("does not behave like"),
        ),
        (
            "sends chunks that lie about their length",
            Hub,
            API,
            9,
            Box::new(|_| {
                raw("HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}")
            }),
            Refused(""),
        ),
        // Heads.
        (
            "speaks no HTTP",
            Hub,
            API,
            99,
            Box::new(|_| raw("\u{0}\u{1}\u{2} hello\r\n\r\n")),
            Refused(""),
        ),
        (
            "sends 5,000 headers",
            Hub,
            API,
            99,
            Box::new(move |_| raw(&format!("HTTP/1.1 200 x\r\n{many}\r\n"))),
            Refused(""),
        ),
        (
            "sends a header of 10 MB",
            Hub,
            API,
            99,
            Box::new(|_| {
                raw(&format!(
                    "HTTP/1.1 200 x\r\nx: {}\r\n\r\n",
                    "y".repeat(10_000_000)
                ))
            }),
            Refused(""),
        ),
        (
            "names a blob by a path",
            Hub,
            HEAD,
            9,
            Box::new(|_| headers(&[("x-linked-etag", "\"../../../../x\"")])),
            Refused(""),
        ),
        (
            "names another blob each time",
            Hub,
            GET,
            99,
            Box::new(|_| {
                headers(&[(
                    "x-linked-etag",
                    "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"",
                )])
            }),
            Refused("the ETag changed"),
        ),
        (
            "names another commit",
            Hub,
            HEAD,
            9,
            Box::new(|_| headers(&[("x-repo-commit", "../x")])),
            Refused("X-Repo-Commit"),
        ),
        // Ranges, after a part of the weights has come.
        (
            "ignores the range",
            Storage,
            LARGE,
            1,
            Box::new(|_| Fault::IgnoreRange),
            Fetched,
        ),
        (
            "sends the wrong range",
            Storage,
            LARGE,
            1,
            Box::new(|_| Fault::WrongRange),
            Fetched,
        ),
        (
            "answers 416 to a good range",
            Storage,
            LARGE,
            1,
            Box::new(|_| status(416, &[("content-range", "bytes */7")])),
            Fetched,
        ),
        // Statuses.
        (
            "answers 401",
            Hub,
            API,
            99,
            Box::new(|_| status(401, &[])),
            Refused("token"),
        ),
        (
            "answers 403",
            Hub,
            API,
            99,
            Box::new(|_| status(403, &[])),
            Refused("token"),
        ),
        (
            "answers 404",
            Hub,
            API,
            99,
            Box::new(|_| status(404, &[])),
            Refused("spelling"),
        ),
        (
            "answers 429 for an hour",
            Hub,
            API,
            99,
            Box::new(|_| status(429, &[("retry-after", "3600")])),
            Refused("wait 3600 s"),
        ),
        (
            "answers 429 for ever",
            Hub,
            API,
            99,
            Box::new(|_| status(429, &[("retry-after", "99999999999999999999")])),
            Refused(""),
        ),
        (
            "answers 500",
            Hub,
            API,
            99,
            Box::new(|_| status(500, &[])),
            Refused("answers 500"),
        ),
        (
            "answers 503 once",
            Hub,
            API,
            1,
            Box::new(|_| status(503, &[])),
            Fetched,
        ),
        (
            "answers 403 where a signed address grew old",
            Storage,
            LARGE,
            1,
            Box::new(|_| status(403, &[])),
            Fetched,
        ),
        (
            "answers 999",
            Hub,
            API,
            99,
            Box::new(|_| status(999, &[])),
            Refused(""),
        ),
        (
            "says things in an error that a terminal obeys",
            Hub,
            API,
            99,
            Box::new(|_| status(400, &[("x-error-message", "\u{9b}2Jgone")])),
            Refused(""),
        ),
    ];
    let n = behaviours.len();
    assert!(n >= 40, "{n} behaviours");
    let mut slowest = Duration::ZERO;
    let mut wrong = Vec::new();
    for (name, server, part, times, fault, verdict) in behaviours {
        let world = World::new();
        let is_range = name.contains("range");
        if is_range {
            world
                .standin
                .fail(Storage, LARGE, 1, Fault::BreakAfter(100_000));
        }
        world.standin.fail(server, part, times, fault(&world));
        let start = Instant::now();
        let fetched = world.model();
        let elapsed = start.elapsed();
        slowest = slowest.max(elapsed);
        assert!(elapsed < LONGEST, "{name}: took {elapsed:?}");
        match (verdict, fetched) {
            (Fetched, Ok(folder)) => {
                let found = fs::read(folder.join("model.safetensors")).expect("the weights");
                assert!(found == weights(), "{name}");
            }
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
                }
            }
            world.assert_clean();
            assert_eq!(
                world.outside_the_cache(),
                Vec::<String>::new(),
                "{path:?} as {what}"
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
    // What names the model's own folder, or one in it, is no harm.
    assert_eq!(
        accepted,
        [("a module", "/"), ("a module", "a/"), ("a module", "")]
    );
    println!("{} hostile paths, offered {n_offered} times", paths.len());
}
