//! The corpus of hostile hosts, with listeners as the judge.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use tokio::net::TcpListener;

use super::*;
use crate::provider::{
    attempt::AttemptConnection,
    http::{Egress, EgressConfig, send},
    okta::host::{ApprovedDomains, normalise},
};

/// As large as the corpus must be at least.
const AT_LEAST: usize = 200;

/// Listeners on both loopback addresses, at one port, that count who connects.
struct Trap {
    port: u16,
    caught: Arc<AtomicUsize>,
}

impl Trap {
    async fn set() -> Self {
        let caught = Arc::new(AtomicUsize::new(0));
        let (v4, v6) = loop {
            let v4 = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = v4.local_addr().unwrap().port();
            match TcpListener::bind(("::1", port)).await {
                Ok(v6) => break (v4, Some(v6)),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(_) => break (v4, None), // a machine without IPv6
            }
        };
        let port = v4.local_addr().unwrap().port();
        for listener in [Some(v4), v6].into_iter().flatten() {
            let caught = Arc::clone(&caught);
            tokio::spawn(async move {
                while listener.accept().await.is_ok() {
                    caught.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        Self { port, caught }
    }

    fn caught(&self) -> usize {
        self.caught.load(Ordering::SeqCst)
    }
}

/// A name server that answers what it is told, and counts; it never asks anybody.
fn name_server(answers: Vec<Vec<SocketAddr>>) -> (Resolver, Arc<AtomicUsize>) {
    let (asked, answers) = (Arc::new(AtomicUsize::new(0)), Mutex::new(answers.into_iter().cycle()));
    let counter = Arc::clone(&asked);
    let answer = Mutex::new(move || answers.lock().unwrap().next().unwrap_or_default());
    let lookup = move |_: String| -> Found {
        counter.fetch_add(1, Ordering::SeqCst);
        let found = (answer.lock().unwrap())();
        Box::pin(async move { Ok(found) })
    };
    let deny = ["203.1.0.0/16".parse().unwrap()];
    (Resolver { lookup: Arc::new(lookup), ..Resolver::new(&[], &deny) }, asked)
}

struct Entry {
    line: &'static str,
    kind: &'static str,
    text: String,
}

fn corpus(port: u16) -> Vec<Entry> {
    let lines = include_str!("hostile.txt").lines().filter(|line| !line.starts_with('#'));
    let entry = |line: &'static str| {
        let (kind, text) = line.split_once(' ').unwrap();
        Entry { line, kind, text: unescape(text).replace("{port}", &port.to_string()) }
    };
    lines.map(entry).collect()
}

fn unescape(text: &str) -> String {
    let (mut plain, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once('\\') {
        plain.push_str(before);
        let digits = match after.as_bytes().first() {
            Some(b'x') => 2,
            Some(b'u') => 4,
            _ => panic!("{text}: an unknown escape"),
        };
        let (code, after) = after[1..].split_at(digits);
        plain.push(char::from_u32(u32::from_str_radix(code, 16).unwrap()).unwrap());
        rest = after;
    }
    plain + rest
}

/// Where an entry's name leads, for whoever asks.
fn answers(entry: &Entry, port: u16) -> Vec<SocketAddr> {
    match entry.kind {
        "dns" => entry.text.split(' ').map(|a| SocketAddr::new(a.parse().unwrap(), port)).collect(),
        _ => vec![SocketAddr::from(([127, 0, 0, 1], port))],
    }
}

fn url(entry: &Entry) -> String {
    match entry.kind {
        "url" => entry.text.clone(),
        "host" => format!("https://{}/api/v1/org", entry.text),
        "dns" => "https://login.acme.com/api/v1/org".to_owned(),
        other => panic!("{other}: an unknown kind"),
    }
}

#[tokio::test]
async fn nothing_of_the_corpus_of_hostile_hosts_is_ever_connected_to() {
    let trap = Trap::set().await;
    let corpus = corpus(trap.port);
    assert!(corpus.len() >= AT_LEAST, "{} entries", corpus.len());
    let approved = ApprovedDomains::try_from(vec!["login.acme.com".to_owned()]).unwrap();
    for entry in &corpus {
        if entry.kind == "host" {
            let taken = normalise(&entry.text, &approved);
            assert!(taken.is_err(), "{:?} is taken for {taken:?}", entry.line);
        }
        let (resolver, _) = name_server(vec![answers(entry, trap.port)]);
        let egress = Egress::with(&EgressConfig::default(), resolver).unwrap();
        let refusal = send(egress.request(http::Method::GET, &url(entry))).await.unwrap_err();
        assert!(matches!(refusal, ProviderError::NotSent(_)), "{:?}: {refusal:?}", entry.line);
        // What people are told names the kind of fault, and nothing of what stands at the other end.
        let told = refusal.into_missing();
        assert!(!told.message.contains("127.0.0.1"), "{:?}: {}", entry.line, told.message);
        if entry.kind != "url" {
            let host = if entry.kind == "dns" { "login.acme.com" } else { &entry.text };
            let refusal = AttemptConnection::open(&egress, host).await.unwrap_err();
            assert!(matches!(refusal, ProviderError::NotSent(_)), "{:?}: {refusal:?}", entry.line);
        }
        // The listeners' tasks have their turn before the next entry.
        tokio::task::yield_now().await;
        assert_eq!(trap.caught(), 0, "{:?}, or the one before, fell into the trap", entry.line);
    }
}

#[tokio::test]
async fn without_filter_and_list_the_trap_catches_what_the_corpus_aims_at_it() {
    struct Unfiltered(Vec<SocketAddr>);
    impl Resolve for Unfiltered {
        fn resolve(&self, _: Name) -> Resolving {
            let found = self.0.clone();
            Box::pin(async move { Ok(Box::new(found.into_iter()) as Addrs) })
        }
    }
    let trap = Trap::set().await;
    let port = trap.port.to_string();
    // Only what aims at the trap itself: nothing else may be called, even here.
    for entry in corpus(trap.port).iter().filter(|e| e.kind == "url" && e.text.contains(&port)) {
        let unfiltered = Unfiltered(vec![SocketAddr::from(([127, 0, 0, 1], trap.port))]);
        let client = reqwest::Client::builder().no_proxy().dns_resolver(Arc::new(unfiltered));
        let client = client.connect_timeout(std::time::Duration::from_secs(5)).build().unwrap();
        let loopback = match url::Url::parse(&entry.text).ok().as_ref().and_then(url::Url::host) {
            Some(url::Host::Ipv4(ip)) => ip.is_loopback() || ip.is_unspecified(),
            Some(url::Host::Ipv6(ip)) => ip.to_canonical().is_loopback() || ip.is_unspecified(),
            Some(url::Host::Domain(_)) => true,
            None => false,
        };
        if !loopback {
            continue;
        }
        let answer = client.get(&entry.text).timeout(std::time::Duration::from_millis(300)).send().await;
        assert!(answer.is_err(), "a trap does not answer");
    }
    let fell = trap.caught();
    assert!(fell >= 60, "only {fell} entries reach the trap: the corpus or the trap is blind");
}

#[tokio::test]
async fn a_name_that_changes_its_mind_is_asked_once_and_its_second_answer_is_refused() {
    let (public, inside) = ("20.190.128.1:0".parse().unwrap(), "127.0.0.1:0".parse().unwrap());
    let (resolver, asked) = name_server(vec![vec![public], vec![inside]]);
    // What was admitted is what is returned, and connected to: there is no second look-up that could answer otherwise.
    assert_eq!(resolver.resolve("login.acme.com").await.unwrap(), [public]);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert!(resolver.resolve("login.acme.com").await.is_err());

    let trap = Trap::set().await;
    let inside = SocketAddr::from(([127, 0, 0, 1], trap.port));
    let (resolver, asked) = name_server(vec![vec![inside]]);
    let egress = Egress::with(&EgressConfig::default(), resolver).unwrap();
    send(egress.request(http::Method::GET, "https://login.acme.com/")).await.unwrap_err();
    assert_eq!(asked.load(Ordering::SeqCst), 1, "one call, one look-up");
    AttemptConnection::open(&egress, "login.acme.com").await.unwrap_err();
    assert_eq!((asked.load(Ordering::SeqCst), trap.caught()), (2, 0));
}

#[test]
fn addresses_that_anybody_may_have_are_admitted() {
    for good in ["20.190.128.1", "2606:4700::1111", "2a01:111::1", "52.96.0.1"] {
        assert!(is_globally_reachable(good.parse().unwrap()), "{good}");
    }
}

#[tokio::test]
async fn only_configured_suffixes_escape_the_address_filter() {
    let address = "127.0.0.1:8443".parse().unwrap();
    let resolver = Resolver::new(&[FixedAddress { suffix: "okta.com".into(), address }], &[]);
    assert_eq!(resolver.resolve("acme.okta.com").await.unwrap(), [address]);
    assert!(resolver.resolve("127.0.0.1").await.is_err());
    assert!(resolver.resolve("localhost").await.is_err());
    assert!(resolver.resolve("evilokta.com.localhost").await.is_err());
}
