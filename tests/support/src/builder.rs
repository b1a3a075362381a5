//! What is decided about a misbehaving server before it starts.

use std::{
    fs::{File, OpenOptions},
    io,
    net::Ipv4Addr,
    path::Path,
    sync::Arc,
};

use crate::{
    address::{Address, bind},
    flavour::Flavour,
    server::Server,
    switches::Switches,
    world::{Ear, World},
};

/// What to decide before a [`Server`] starts.
#[derive(Debug)]
pub struct Builder {
    flavour: Flavour,
    switches: Switches,
    address: Address,
    log: Option<File>,
    ear: Option<Ear>,
}

impl Builder {
    pub(crate) fn new(flavour: Flavour) -> Self {
        let address = Address::Tcp((Ipv4Addr::LOCALHOST, 0).into());
        Self { flavour, switches: Switches::of(flavour), address, log: None, ear: None }
    }

    /// Alters the switches.
    pub fn set(mut self, alter: impl FnOnce(&mut Switches)) -> Self {
        alter(&mut self.switches);
        self
    }

    /// Listens on this Unix socket.
    pub fn unix(mut self, path: impl AsRef<Path>) -> Self {
        self.address = Address::Unix(path.as_ref().into());
        self
    }

    /// Listens on this loopback port; 0 is any.
    pub fn port(mut self, port: u16) -> Self {
        self.address = Address::Tcp((Ipv4Addr::LOCALHOST, port).into());
        self
    }

    /// Appends one line, the tool's name, for every executed call.
    pub fn log(mut self, path: &Path) -> io::Result<Self> {
        self.log = Some(OpenOptions::new().create(true).append(true).open(path)?);
        Ok(self)
    }

    /// Who hears of every request.
    pub(crate) fn ear(mut self, ear: Ear) -> Self {
        self.ear = Some(ear);
        self
    }

    /// Starts it; returns when it listens (with a slow start: at once, and connections are refused until then).
    pub async fn start(self) -> io::Result<Server> {
        let world = Arc::new(World::new(self.flavour, self.switches));
        world.state().log = self.log;
        world.state().ear = self.ear;
        let (address, reserved) = match self.address {
            Address::Tcp(address) => {
                let socket = bind(address)?;
                (Address::Tcp(socket.local_addr()?), Some(socket))
            }
            unix @ Address::Unix(_) => (unix, None),
        };
        let server = Server::of(world, address, reserved);
        server.start_again().await;
        Ok(server)
    }
}
