//! The node's IP-in-IP device: one device, no fixed far end; each route names its own as gateway.
//!
//! A device of our own and never `tunl0`, which every tool on the host shares.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt;
use rtnetlink::packet_core::ErrorMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoData, InfoIpTunnel, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::{Handle, LinkGetRequest, LinkIpIp, LinkMessageBuilder, LinkUnspec};

/// Bytes of the outer IPv4 header (RFC 2003 §3.1).
pub const OVERHEAD: u32 = 20;

/// TTL of the outer header: the tunnel is one hop to the inner packet, any number to the outer.
const TTL: u8 = 64;

/// The device as it should be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tunnel {
    /// Its name.
    pub name: String,
    /// Source of the outer packets: the node's own address.
    pub local: Ipv4Addr,
    /// MTU of the links the outer packets take, in bytes; the device gets 20 less.
    pub underlay_mtu: u32,
    /// Its only IPv4 address; `None`: whatever it has is left. Without one the kernel's reverse
    /// path filter drops answers even when loose.
    pub address: Option<Ipv4Addr>,
}

/// What had to be done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Done {
    /// It was as it should be.
    Kept,
    /// It was there and something was set right.
    Adjusted,
    /// It was made anew.
    Created,
}

/// Why there is no tunnel.
///
/// The caller's question: can it ever work on this host, or is it worth another try?
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// The kernel knows no ipip devices. No use in trying again before somebody acted.
    #[error(
        "this kernel has no ipip; load it with `modprobe ipip`, or install the full kernel image (linux-modules-extra on Ubuntu cloud images)"
    )]
    NoIpip,
    /// A device of this name exists and is something else.
    #[error("device {0} exists and is no ipip device")]
    NameTaken(String),
    /// We may not make devices.
    #[error("no permission to make devices; CAP_NET_ADMIN is needed")]
    Denied,
    /// Another ipip device has the same local address and no far end, such as `tunl0` would.
    #[error("another ipip device has the local address {0} and no far end")]
    EndTaken(Ipv4Addr),
    /// Anything else; says during what.
    #[error("cannot {0}")]
    Io(&'static str, #[source] io::Error),
}

/// One way in which the device is not as it should be.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fault {
    /// There is none.
    #[error("the device was removed")]
    Missing,
    /// Another device has its name now.
    #[error("the device was removed and another one made in its place")]
    Replaced,
    /// It is called this now.
    #[error("the device was renamed to {0}")]
    Renamed(String),
    /// It is administratively down.
    #[error("the device was set down")]
    Down,
    /// It has this MTU.
    #[error("the device's MTU was set to {0}")]
    Mtu(u32),
    /// Its ends, TTL, TOS, path MTU discovery or underlying link.
    #[error("the device's mode was changed: {0}")]
    Mode(String),
    /// The address is missing.
    #[error("the address {0} was removed")]
    Address(Ipv4Addr),
    /// Another IPv4 address is there.
    #[error("the address {0} was added")]
    Stray(Ipv4Addr),
}

/// What is wrong with the device that [`ensure`] brought to `wanted` and gave this index. Changes
/// nothing.
pub async fn look(wanted: &Tunnel, index: u32) -> Result<Vec<Fault>, TunnelError> {
    let links = Links::open()?;
    let Some(found) = links.get(&wanted.name).await? else {
        let renamed = links.get_by_index(index).await?.filter(|found| found.ipip);
        return Ok(vec![renamed.map_or(Fault::Missing, |found| Fault::Renamed(found.name))]);
    };
    let mut faults = Vec::new();
    if found.index != index {
        faults.push(Fault::Replaced);
    }
    if !found.up {
        faults.push(Fault::Down);
    }
    if found.mtu != mtu(wanted) {
        faults.push(Fault::Mtu(found.mtu));
    }
    if !found.ipip || !found.fits(wanted) {
        faults.push(Fault::Mode(found.mode()));
    }
    if let Some(address) = wanted.address {
        let (has_it, strays) = links.addresses(found.index, address).await?;
        if !has_it {
            faults.push(Fault::Address(address));
        }
        faults.extend(strays.iter().filter_map(ipv4).map(Fault::Stray));
    }
    Ok(faults)
}

/// Gives a device its name back. Kernels before 6.2 do that only while it is down.
pub async fn rename(index: u32, name: &str) -> Result<(), TunnelError> {
    let links = Links::open()?;
    let renamed = || LinkUnspec::new_with_index(index).name(name.to_owned());
    let tried = links.handle.link().change(renamed().build()).execute().await;
    match tried {
        Err(error) if errno(&error) == Some(libc::EBUSY) => {
            links.handle.link().change(renamed().down().build()).execute().await
        }
        result => result,
    }
    .map_err(|error| other("give the tunnel device its name back", error))
}

/// Brings the device to `wanted` and up; returns its interface index and what was done.
pub async fn ensure(wanted: &Tunnel) -> Result<(u32, Done), TunnelError> {
    let links = Links::open()?;
    let mut done = Done::Kept;
    let found = match links.get(&wanted.name).await? {
        Some(found) if !found.ipip => return Err(TunnelError::NameTaken(wanted.name.clone())),
        Some(found) if found.fits(wanted) => found,
        Some(found) => {
            done = links.reshape(&found, wanted).await?;
            links.get_made(wanted).await?
        }
        None => {
            links.create(wanted).await?;
            done = Done::Created;
            links.get_made(wanted).await?
        }
    };
    if !found.up || found.mtu != mtu(wanted) {
        let message = LinkUnspec::new_with_index(found.index).mtu(mtu(wanted)).up().build();
        links.handle.link().change(message).execute().await.map_err(|error| other("set the tunnel up", error))?;
        done = adjusted(done);
    }
    if let Some(address) = wanted.address
        && links.set_address(found.index, address).await?
    {
        done = adjusted(done);
    }
    Ok((found.index, done))
}

/// A tunnel of somebody else on this host that takes IP-in-IP packets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Foreign {
    /// Its near end; `None`: any address of the host
    pub local: Option<Ipv4Addr>,
    /// Its far end; `None`: anybody
    pub remote: Option<Ipv4Addr>,
}

/// All tunnels that take IP-in-IP packets, up or not, but the one of this name.
pub async fn foreign(name: &str) -> Result<Vec<Foreign>, TunnelError> {
    let links = Links::open()?;
    let mut answers = Box::pin(links.handle.link().get().execute());
    let mut found = Vec::new();
    while let Some(message) = answers.try_next().await.map_err(|error| other("look at tunnel devices", error))? {
        let link = Found::from(&message);
        let end = |end: Option<IpAddr>| match end {
            Some(IpAddr::V4(end)) if !end.is_unspecified() => Some(end),
            _ => None,
        };
        if link.ipip && link.name != name {
            found.push(Foreign { local: end(link.local), remote: end(link.remote) });
        }
    }
    Ok(found)
}

/// Removes the device; whether there was one. A device of the name that is no ipip is left.
pub async fn remove(name: &str) -> Result<bool, TunnelError> {
    let links = Links::open()?;
    match links.get(name).await? {
        Some(found) if found.ipip => links.delete(found.index).await.map(|()| true),
        _ => Ok(false),
    }
}

const fn adjusted(done: Done) -> Done {
    match done {
        Done::Created => Done::Created,
        Done::Kept | Done::Adjusted => Done::Adjusted,
    }
}

const fn mtu(wanted: &Tunnel) -> u32 {
    wanted.underlay_mtu.saturating_sub(OVERHEAD)
}

/// The parts of an existing device that matter.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the kernel's, and any may go with any")]
struct Found {
    index: u32,
    name: String,
    up: bool,
    mtu: u32,
    ipip: bool,
    local: Option<IpAddr>,
    remote: Option<IpAddr>,
    ttl: u8,
    tos: u8,
    /// The only link its packets leave by; 0: any
    link: u32,
    pmtudisc: bool,
    /// Far ends come from elsewhere (`external`): not what we make.
    external: bool,
}

impl Found {
    fn fits(&self, wanted: &Tunnel) -> bool {
        self.local == Some(IpAddr::V4(wanted.local))
            && self.remote.is_none_or(|remote| remote.is_unspecified())
            && self.ttl == TTL
            && self.tos == 0
            && self.link == 0
            && self.pmtudisc
            && !self.external
    }

    /// In the words of ip(8), as far as it may differ.
    fn mode(&self) -> String {
        if !self.ipip {
            return "no ipip".to_owned();
        }
        let any = |end: Option<IpAddr>| end.filter(|end| !end.is_unspecified());
        let end = |end| any(end).map_or_else(|| "any".to_owned(), |end: IpAddr| end.to_string());
        let Self { ttl, tos, .. } = self;
        let mut text = format!("local {} remote {} ttl {ttl}", end(self.local), end(self.remote));
        for (differs, word) in [
            (self.tos != 0, format!(" tos {tos}")),
            (self.link != 0, format!(" dev {}", self.link)),
            (!self.pmtudisc, " nopmtudisc".to_owned()),
            (self.external, " external".to_owned()),
        ] {
            text.push_str(if differs { &word } else { "" });
        }
        text
    }
}

impl From<&LinkMessage> for Found {
    fn from(message: &LinkMessage) -> Self {
        let mut found =
            Self { index: message.header.index, up: message.header.flags.contains(LinkFlags::Up), ..Self::default() };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::Mtu(mtu) => found.mtu = *mtu,
                LinkAttribute::IfName(name) => found.name.clone_from(name),
                LinkAttribute::LinkInfo(infos) => infos.iter().for_each(|info| found.read(info)),
                _ => {}
            }
        }
        found
    }
}

impl Found {
    fn read(&mut self, info: &LinkInfo) {
        match info {
            LinkInfo::Kind(kind) => self.ipip = *kind == InfoKind::IpIp,
            LinkInfo::Data(InfoData::IpTunnel(data)) => {
                for item in data {
                    match item {
                        InfoIpTunnel::Local(addr) => self.local = Some(*addr),
                        InfoIpTunnel::Remote(addr) => self.remote = Some(*addr),
                        InfoIpTunnel::Ttl(ttl) => self.ttl = *ttl,
                        InfoIpTunnel::Tos(tos) => self.tos = *tos,
                        InfoIpTunnel::Link(link) => self.link = *link,
                        InfoIpTunnel::PMtuDisc(on) => self.pmtudisc = *on,
                        InfoIpTunnel::CollectMetadata => self.external = true,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
}

/// A netlink connection for one visit; its task ends when this is dropped.
struct Links {
    handle: Handle,
}

impl Links {
    fn open() -> Result<Self, TunnelError> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|error| TunnelError::Io("open a netlink socket", error))?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    async fn get(&self, name: &str) -> Result<Option<Found>, TunnelError> {
        Self::first(self.handle.link().get().match_name(name)).await
    }

    async fn get_by_index(&self, index: u32) -> Result<Option<Found>, TunnelError> {
        Self::first(self.handle.link().get().match_index(index)).await
    }

    async fn first(request: LinkGetRequest) -> Result<Option<Found>, TunnelError> {
        let mut answers = Box::pin(request.execute());
        match answers.try_next().await {
            Ok(message) => Ok(message.as_ref().map(Found::from)),
            Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(other("look at the tunnel device", error)),
        }
    }

    /// The device that was just made or changed.
    async fn get_made(&self, wanted: &Tunnel) -> Result<Found, TunnelError> {
        let gone = || TunnelError::Io("find the tunnel device just made", io::ErrorKind::NotFound.into());
        self.get(&wanted.name).await?.ok_or_else(gone)
    }

    async fn create(&self, wanted: &Tunnel) -> Result<(), TunnelError> {
        let message = describe(wanted).mtu(mtu(wanted)).up().build();
        self.handle.link().add(message).execute().await.map_err(|error| match errno(&error) {
            Some(libc::EOPNOTSUPP) => TunnelError::NoIpip,
            Some(libc::EPERM) => TunnelError::Denied,
            // The name was free a moment ago, so it is the pair of ends.
            Some(libc::EEXIST) => TunnelError::EndTaken(wanted.local),
            _ => other("make the tunnel device", error),
        })
    }

    /// Changes the ends in place, which keeps the routes over it; where the kernel does not let us
    /// (the device had a fixed far end, or took them from elsewhere), makes it anew.
    async fn reshape(&self, found: &Found, wanted: &Tunnel) -> Result<Done, TunnelError> {
        if !found.external {
            let changed = self.handle.link().change(describe(wanted).build()).execute().await;
            match changed {
                Ok(()) => return Ok(Done::Adjusted),
                Err(error) if errno(&error) == Some(libc::EINVAL) => {}
                Err(error) if errno(&error) == Some(libc::EEXIST) => return Err(TunnelError::EndTaken(wanted.local)),
                Err(error) if errno(&error) == Some(libc::EPERM) => return Err(TunnelError::Denied),
                Err(error) => return Err(other("change the tunnel device", error)),
            }
        }
        self.delete(found.index).await?;
        self.create(wanted).await?;
        Ok(Done::Created)
    }

    async fn delete(&self, index: u32) -> Result<(), TunnelError> {
        match self.handle.link().del(index).execute().await {
            Err(error) if errno(&error) != Some(libc::ENODEV) => Err(other("remove the tunnel device", error)),
            _ => Ok(()),
        }
    }

    /// Whether the device has the address, and the other IPv4 addresses that it has.
    async fn addresses(&self, index: u32, address: Ipv4Addr) -> Result<(bool, Vec<AddressMessage>), TunnelError> {
        let list = self.handle.address().get().set_link_index_filter(index).execute();
        let present: Vec<AddressMessage> =
            list.try_collect().await.map_err(|error| other("read the tunnel's addresses", error))?;
        let mine = present.into_iter().filter(|message| message.header.index == index && ipv4(message).is_some());
        let (it, strays): (Vec<_>, Vec<_>) =
            mine.partition(|message| message.header.prefix_len == 32 && ipv4(message) == Some(address));
        Ok((!it.is_empty(), strays))
    }

    /// Makes `address` the device's only IPv4 address; whether anything had to be done.
    async fn set_address(&self, index: u32, address: Ipv4Addr) -> Result<bool, TunnelError> {
        let (has_it, strays) = self.addresses(index, address).await?;
        if !has_it {
            let add = self.handle.address().add(index, IpAddr::V4(address), 32);
            add.execute().await.map_err(|error| other("give the tunnel its address", error))?;
        }
        let changed = !has_it || !strays.is_empty();
        for stray in strays {
            let del = self.handle.address().del(stray);
            del.execute().await.map_err(|error| other("remove an old address of the tunnel", error))?;
        }
        Ok(changed)
    }
}

/// The host's end of an address, if it is IPv4.
fn ipv4(message: &AddressMessage) -> Option<Ipv4Addr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(local)) => Some(*local),
        _ => None,
    })
}

fn describe(wanted: &Tunnel) -> LinkMessageBuilder<LinkIpIp> {
    LinkIpIp::new(&wanted.name).local(wanted.local).remote(Ipv4Addr::UNSPECIFIED).ttl(TTL).pmtudisc(true)
}

fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => ErrorMessage::to_io(message).raw_os_error(),
        _ => None,
    }
}

fn other(during: &'static str, error: rtnetlink::Error) -> TunnelError {
    let source = match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    };
    TunnelError::Io(during, source)
}
