//! Effects: sockets, kernel, files, other programs. Thin: every module here carries out what it is
//! told and decides nothing; none knows another, but all may use [`files`] and `program`.

pub mod bfd;
pub mod clock;
pub mod drops;
pub mod embedded;
pub mod etcd;
pub mod files;
pub mod iptables;
pub mod limits;
pub mod lines;
pub mod netlink;
pub mod nft;
pub mod procfs;
mod program;
pub mod socket;
pub mod supervisor;
pub mod suspects;
pub mod sysctl;
pub mod tcp;
pub mod tunnel;
