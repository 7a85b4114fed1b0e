//! A TCP proxy that makes a server slow, or cuts it off.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// A proxy in front of one server.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    switches: Arc<Switches>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Switches {
    delay_ms: AtomicU64,
    closed: AtomicBool,
    refused: tokio::sync::watch::Sender<u32>,
    cut: std::sync::Mutex<CancellationToken>,
}

impl Proxy {
    /// Forwards to a port of this host.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let switches = Arc::new(Switches {
            delay_ms: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            refused: tokio::sync::watch::Sender::default(),
            cut: std::sync::Mutex::new(CancellationToken::new()),
        });
        let shared = Arc::clone(&switches);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if shared.closed.load(Ordering::Relaxed) {
                    shared.refused.send_modify(|refused| *refused += 1);
                    continue; // dropped: the client sees a reset
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
                tokio::spawn(forward(client, server, Arc::clone(&shared)));
            }
        });
        Self { address, switches, task }
    }

    /// The port to connect to instead of the server's.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Holds back each piece of data, in both directions, for so long.
    pub fn delay(&self, delay: Duration) {
        self.switches.delay_ms.store(u64::try_from(delay.as_millis()).unwrap(), Ordering::Relaxed);
    }

    /// Cuts every connection and refuses new ones.
    pub fn close(&self) {
        self.switches.closed.store(true, Ordering::Relaxed);
        self.cut();
    }

    /// Waits until so many connections were refused.
    pub async fn until_refused(&self, times: u32) {
        let mut refused = self.switches.refused.subscribe();
        let enough = refused.wait_for(|refused| *refused >= times);
        tokio::time::timeout(Duration::from_mins(1), enough).await.expect("somebody tries again").unwrap();
    }

    /// Takes connections again.
    pub fn open(&self) {
        self.switches.closed.store(false, Ordering::Relaxed);
    }

    /// Cuts every connection; new ones are taken.
    pub fn cut(&self) {
        let mut cut = self.switches.cut.lock().unwrap();
        std::mem::take(&mut *cut).cancel();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.switches.cut.lock().unwrap().cancel();
    }
}

async fn forward(client: TcpStream, server: TcpStream, switches: Arc<Switches>) {
    let cut = switches.cut.lock().unwrap().clone();
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    tokio::select! {
        () = cut.cancelled() => {}
        () = async {
            tokio::join!(
                one_way(client_read, server_write, &switches),
                one_way(server_read, client_write, &switches)
            );
        } => {}
    }
}

async fn one_way(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    switches: &Switches,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        let delay = switches.delay_ms.load(Ordering::Relaxed);
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
    // The other end sees that this one is finished; if it is gone already, so much the better.
    to.shutdown().await.ok();
}
