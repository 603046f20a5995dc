//! Sockets as a replica wants them: listening with a clear error, dialled through the routes, quick to notice a
//! machine that is gone.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::TcpStream;

/// A port that could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody else has it.
    #[error(
        "the {port} port cannot listen on {address}: the address is in use; another replica may run already (see `ss -ltnp`), or choose another address"
    )]
    InUse {
        /// Which port.
        port: &'static str,
        /// Where.
        address: String,
    },
    /// Anything else.
    #[error("the {port} port cannot listen on {address}: {error}")]
    Io {
        /// Which port.
        port: &'static str,
        /// Where.
        address: String,
        /// What the system said.
        error: io::Error,
    },
}

/// Opens a listening socket; nobody waits for it yet.
///
/// # Errors
/// Names the port and what to do.
pub fn listen(port: &'static str, address: &str) -> Result<std::net::TcpListener, ListenError> {
    let open = || -> io::Result<std::net::TcpListener> {
        let resolved = address
            .to_socket_addrs()?
            .next()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name resolves to no address"))?;
        if !resolved.ip().is_loopback() {
            tracing::warn!(
                port,
                %address,
                "port.open this port is reachable from other machines and asks for no password: keep it inside a trusted network"
            );
        }
        let socket = Socket::new(Domain::for_address(resolved), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&resolved.into())?;
        socket.listen(1024)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    open().map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse { port, address: address.to_owned() },
        _ => ListenError::Io { port, address: address.to_owned(), error },
    })
}

/// No delay, and a peer that is gone is noticed: idle after some 19 s, with bytes under way after 15 s. A socket that
/// refuses an option is no worse than before, so errors are not told.
pub fn tune(stream: &impl AsFd) {
    let socket = SockRef::from(stream);
    let _ = socket.set_tcp_nodelay(true);
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(10)).with_interval(Duration::from_secs(3)).with_retries(3);
    let _ = socket.set_tcp_keepalive(&keepalive);
    let _ = socket.set_tcp_user_timeout(Some(Duration::from_secs(15)));
}

/// Connects within `timeout`.
///
/// # Errors
/// What the system said, or [`io::ErrorKind::TimedOut`].
pub async fn dial(address: String, timeout: Duration) -> io::Result<TcpStream> {
    match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
        Ok(connected) => connected,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// True when the other machine itself said that nobody listens.
pub fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset)
}

/// What others are told: the advertised address, its port filled in when it is 0, or the listened one.
pub fn advertised(given: Option<&str>, bound: SocketAddr) -> String {
    match given.filter(|given| !given.is_empty()) {
        None => bound.to_string(),
        Some(given) => match given.rsplit_once(':') {
            Some((host, "0")) => format!("{host}:{}", bound.port()),
            _ => given.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_use_names_the_port() {
        let first = listen("peer", "127.0.0.1:0").unwrap();
        let address = first.local_addr().unwrap().to_string();
        let said = listen("client", &address).unwrap_err().to_string();
        assert!(said.contains("client port") && said.contains("in use"), "{said}");
    }

    #[test]
    fn a_port_of_zero_is_filled_in() {
        let bound = "127.0.0.1:4000".parse().unwrap();
        assert_eq!(advertised(Some("db:0"), bound), "db:4000");
        assert_eq!(advertised(None, bound), "127.0.0.1:4000");
    }
}
