//! The names of a lab: a query in, an answer out.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use ipnet::{IpNet, Ipv4Net};

use crate::error::Error;

/// The longest answer over UDP in bytes, what the DNS flag day of 2020 agreed on.
pub(crate) const UDP_LONGEST: u16 = 1232;

/// The longest answer over TCP in bytes: what its length prefix can say.
pub(crate) const TCP_LONGEST: u16 = u16::MAX;

/// How many CNAMEs are followed.
const CHAIN: usize = 8;

/// How long answers may be kept by clients, in seconds: a test changes records, and must see the change at once.
const TTL: u32 = 0;

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordData {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// Another name.
    Cname(String),
    /// A text of 255 bytes at most.
    Txt(String),
    /// Where a service is (RFC 2782).
    Srv {
        /// Lower ones are tried first.
        priority: u16,
        /// The share among those of one priority.
        weight: u16,
        /// Its TCP or UDP port.
        port: u16,
        /// Its host.
        target: String,
    },
}

/// The names that a server knows. It is the authority for all of its zone and for the addresses of its subnet: what it
/// does not know there does not exist (NXDOMAIN). It refuses to be asked about anything else (REFUSED), but for names that
/// were added as absolute ones.
///
/// Names are relative to the zone; one that ends in a dot is absolute, and may be outside of the zone
/// (`time.example.com.`).
#[derive(Clone, Debug)]
pub struct Zone {
    apex: Name,
    subnet: Option<Ipv4Net>,
    records: BTreeMap<Name, Vec<RData>>,
}

impl Zone {
    /// A zone without names.
    ///
    /// # Errors
    /// [`Error::Name`].
    pub fn new(name: &str) -> Result<Zone, Error> {
        let apex = parse(name, &Name::root())?;
        if apex.is_root() {
            return Err(Error::Name { name: name.to_owned(), evidence: "it has no label".into() });
        }
        Ok(Zone { apex, subnet: None, records: BTreeMap::new() })
    }

    /// Makes it the authority for the addresses of a subnet as well.
    pub fn set_subnet(&mut self, subnet: Ipv4Net) {
        self.subnet = Some(subnet.trunc());
    }

    /// Gives a host its address, and the address its name: an A and a PTR record. An address that has a name already gets
    /// this one instead; its A records stay.
    ///
    /// # Errors
    /// [`Error::Name`].
    pub fn host(&mut self, name: &str, address: Ipv4Addr) -> Result<(), Error> {
        let name = parse(name, &self.apex)?;
        self.put(name.clone(), RData::A(A(address)));
        self.records.insert(Name::from(IpAddr::V4(address)), vec![RData::PTR(PTR(name))]);
        Ok(())
    }

    /// Adds a record to those of its name.
    ///
    /// # Errors
    /// [`Error::Name`], [`Error::Text`].
    pub fn add(&mut self, name: &str, data: RecordData) -> Result<(), Error> {
        let owner = parse(name, &self.apex)?;
        let data = match data {
            RecordData::A(address) => RData::A(A(address)),
            RecordData::Aaaa(address) => RData::AAAA(AAAA(address)),
            RecordData::Cname(target) => RData::CNAME(CNAME(parse(&target, &self.apex)?)),
            RecordData::Txt(text) if text.len() > 255 => {
                return Err(Error::Text { name: name.to_owned(), length: text.len() });
            }
            RecordData::Txt(text) => RData::TXT(TXT::new(vec![text])),
            RecordData::Srv { priority, weight, port, target } => {
                RData::SRV(SRV::new(priority, weight, port, parse(&target, &self.apex)?))
            }
        };
        self.put(owner, data);
        Ok(())
    }

    /// Removes all records of a name, and the PTR records that lead to it; says whether there were any.
    ///
    /// # Errors
    /// [`Error::Name`].
    pub fn remove(&mut self, name: &str) -> Result<bool, Error> {
        let name = parse(name, &self.apex)?;
        let before = self.records.len();
        self.records.remove(&name);
        self.records.retain(|_, all| !all.iter().any(|data| matches!(data, RData::PTR(to) if to.0 == name)));
        Ok(self.records.len() < before)
    }

    fn put(&mut self, name: Name, data: RData) {
        let all = self.records.entry(name).or_default();
        if !all.contains(&data) {
            all.push(data);
        }
    }

    /// What a query is answered with, in `longest` bytes at most (fewer if the client says so); `None` if it is no query.
    /// An answer that does not fit is cut, and says so, so that the client asks again over TCP.
    pub fn answer(&self, query: &[u8], longest: u16) -> Option<Vec<u8>> {
        let over_udp = longest < TCP_LONGEST;
        let reply = match Message::from_vec(query) {
            Ok(query) if query.metadata.message_type == MessageType::Query => self.reply(&query),
            Ok(_) => return None,
            // What has a whole header of a query is told that the rest is bad.
            Err(_) if query.len() >= 12 && query[2] & 0x80 == 0 => {
                let id = u16::from_be_bytes([query[0], query[1]]);
                Message::error_msg(id, OpCode::from_u8((query[2] >> 3) & 0xf), ResponseCode::FormErr)
            }
            Err(_) => return None,
        };
        let limit = match &reply.edns {
            Some(edns) if over_udp => edns.max_payload().min(longest),
            None if over_udp => 512,
            _ => longest,
        };
        let mut ours = reply;
        if let Some(edns) = &mut ours.edns {
            edns.set_max_payload(UDP_LONGEST);
        }
        let written = |message: &Message| {
            message.to_vec().inspect_err(|error| tracing::warn!(%error, "a DNS answer was not written")).ok()
        };
        let bytes = written(&ours)?;
        if bytes.len() <= limit.into() { Some(bytes) } else { written(&ours.truncate()) }
    }

    /// The answer; its EDNS section, if the query has one, still has the client's limit.
    fn reply(&self, query: &Message) -> Message {
        let mut reply = Message::new(query.metadata.id, MessageType::Response, query.metadata.op_code);
        reply.metadata = Metadata::response_from_request(&query.metadata);
        // More than one is a format error (RFC 9619), and all of them again could be longer than any answer may be.
        if let [one] = query.queries.as_slice() {
            reply.add_query(one.clone());
        }
        if let Some(edns) = &query.edns {
            let mut ours = Edns::new();
            ours.set_max_payload(edns.max_payload().max(512)).set_version(0);
            if edns.version() > 0 {
                // BADVERS (RFC 6891, 6.1.3) does not fit into the header alone.
                ours.set_rcode_high(1);
                reply.set_edns(ours);
                return reply;
            }
            reply.set_edns(ours);
        }
        reply.metadata.response_code = match query.queries.as_slice() {
            _ if query.metadata.op_code != OpCode::Query => ResponseCode::NotImp,
            [one] if matches!(one.query_class(), DNSClass::IN | DNSClass::ANY) => {
                let mut name = one.name().clone();
                name.set_fqdn(true);
                self.look_up(name, one.query_type(), &mut reply)
            }
            [_] => ResponseCode::Refused,
            _ => ResponseCode::FormErr,
        };
        reply
    }

    fn look_up(&self, asked: Name, kind: RecordType, reply: &mut Message) -> ResponseCode {
        let mut name = asked;
        for _ in 0..CHAIN {
            let all = self.records.get(&name).map_or(&[][..], Vec::as_slice);
            if all.is_empty() {
                break;
            }
            reply.metadata.authoritative = true;
            let fits = |data: &&RData| kind == RecordType::ANY || data.record_type() == kind;
            let before = reply.answers.len();
            reply.add_answers(all.iter().filter(fits).map(|data| record(&name, data)));
            let alias = all.iter().find_map(|data| match data {
                RData::CNAME(target) => Some((data, target.0.clone())),
                _ => None,
            });
            match alias {
                Some((data, target)) if reply.answers.len() == before => {
                    reply.add_answer(record(&name, data));
                    name = target;
                }
                _ => break,
            }
        }
        if reply.answers.is_empty() && self.owns(&name) {
            reply.metadata.authoritative = true;
            reply.add_authority(self.start_of_authority());
        }
        if !reply.answers.is_empty() || self.exists(&name) {
            ResponseCode::NoError
        } else if self.owns(&name) {
            ResponseCode::NXDomain
        } else {
            ResponseCode::Refused
        }
    }

    /// Whether a name has records, or is on the way to one that has (RFC 8020).
    fn exists(&self, name: &Name) -> bool {
        *name == self.apex || self.records.keys().any(|known| name.zone_of(known) && !name.is_root())
    }

    /// Whether it is for this server to say that a name does not exist.
    fn owns(&self, name: &Name) -> bool {
        let reverse = || match (name.parse_arpa_name(), self.subnet) {
            (Ok(IpNet::V4(address)), Some(subnet)) => subnet.contains(&address),
            _ => false,
        };
        self.apex.zone_of(name) || self.records.contains_key(name) || reverse()
    }

    fn start_of_authority(&self) -> Record {
        let soa = SOA::new(self.apex.clone(), self.apex.clone(), 1, 3600, 600, 86400, TTL);
        Record::from_rdata(self.apex.clone(), TTL, RData::SOA(soa))
    }
}

fn record(name: &Name, data: &RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data.clone())
}

fn parse(name: &str, origin: &Name) -> Result<Name, Error> {
    let wrong = |evidence: String| Error::Name { name: name.to_owned(), evidence };
    if name.is_empty() {
        return Err(wrong("it is empty".into()));
    }
    let parsed = Name::from_ascii(name).map_err(|error| wrong(error.to_string()))?;
    let mut whole = if parsed.is_fqdn() {
        parsed
    } else {
        parsed.append_domain(origin).map_err(|error| wrong(error.to_string()))?
    };
    whole.set_fqdn(true);
    Ok(whole)
}
