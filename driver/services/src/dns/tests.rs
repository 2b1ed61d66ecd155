//! Queries and their answers.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use pretty_assertions::assert_eq;
use proptest::prelude::*;

use super::zone::{TCP_LONGEST, UDP_LONGEST};
use super::*;

fn zone() -> Zone {
    let mut zone = Zone::new("lab").unwrap();
    zone.set_subnet("192.168.1.0/24".parse().unwrap());
    zone.host("server-1", "192.168.1.1".parse().unwrap()).unwrap();
    zone.add("server-1", RecordData::Aaaa("fd00::1".parse().unwrap())).unwrap();
    zone.add("api", RecordData::Cname("www".into())).unwrap();
    zone.add("www", RecordData::Cname("server-1.lab.".into())).unwrap();
    zone.add("loop", RecordData::Cname("loop".into())).unwrap();
    zone.add("out", RecordData::Cname("example.com.".into())).unwrap();
    zone.add("time.example.org.", RecordData::A("192.168.1.9".parse().unwrap())).unwrap();
    zone.add("note", RecordData::Txt("hello".into())).unwrap();
    let srv = RecordData::Srv { priority: 1, weight: 2, port: 2380, target: "server-1".into() };
    zone.add("_etcd._tcp", srv).unwrap();
    zone
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut query = Message::new(7, MessageType::Query, OpCode::Query);
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    query
}

fn ask(zone: &Zone, query: &Message) -> Message {
    Message::from_vec(&zone.answer(&query.to_vec().unwrap(), UDP_LONGEST).unwrap()).unwrap()
}

/// The response code, and the answers in short.
fn short(name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
    let answer = ask(&zone(), &query(name, kind));
    assert_eq!(answer.metadata.id, 7);
    (answer.metadata.response_code, answer.answers.iter().map(|record| record.data.to_string()).collect())
}

#[test]
fn answers() {
    use RecordType::*;
    use ResponseCode::*;
    for (name, kind, code, data) in [
        ("server-1.lab.", A, NoError, vec!["192.168.1.1"]),
        ("SERVER-1.Lab.", A, NoError, vec!["192.168.1.1"]),
        ("server-1.lab.", AAAA, NoError, vec!["fd00::1"]),
        ("server-1.lab.", ANY, NoError, vec!["192.168.1.1", "fd00::1"]),
        ("server-1.lab.", TXT, NoError, vec![]),
        ("1.1.168.192.in-addr.arpa.", PTR, NoError, vec!["server-1.lab."]),
        ("2.1.168.192.in-addr.arpa.", PTR, NXDomain, vec![]),
        ("1.2.168.192.in-addr.arpa.", PTR, Refused, vec![]),
        ("api.lab.", A, NoError, vec!["www.lab.", "server-1.lab.", "192.168.1.1"]),
        ("api.lab.", CNAME, NoError, vec!["www.lab."]),
        ("out.lab.", A, NoError, vec!["example.com."]),
        ("note.lab.", TXT, NoError, vec!["hello"]),
        ("_etcd._tcp.lab.", SRV, NoError, vec!["1 2 2380 server-1.lab."]),
        ("_tcp.lab.", SRV, NoError, vec![]),
        ("lab.", A, NoError, vec![]),
        ("nobody.lab.", A, NXDomain, vec![]),
        ("time.example.org.", A, NoError, vec!["192.168.1.9"]),
        ("time.example.org.", AAAA, NoError, vec![]),
        ("example.com.", A, Refused, vec![]),
        (".", NS, Refused, vec![]),
    ] {
        let data = data.into_iter().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(short(name, kind), (code, data), "{name} {kind}");
    }
    assert_eq!(short("loop.lab.", A).1.len(), 8, "a loop of aliases ends");
}

#[test]
fn a_test_changes_records() {
    let mut zone = zone();
    let asked = query("server-1.lab.", RecordType::A);
    assert!(zone.remove("server-1").unwrap());
    assert!(!zone.remove("server-1").unwrap());
    assert_eq!(ask(&zone, &asked).metadata.response_code, ResponseCode::NXDomain);
    let reverse = ask(&zone, &query("1.1.168.192.in-addr.arpa.", RecordType::PTR));
    assert_eq!(reverse.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(reverse.authorities.len(), 1, "a negative answer has the zone's SOA");
    assert!(zone.add("a..b", RecordData::Txt(String::new())).is_err());
    assert!(zone.add("long", RecordData::Txt("x".repeat(256))).is_err());
}

#[test]
fn an_answer_that_does_not_fit_is_cut() {
    let mut zone = zone();
    for text in 0..6 {
        zone.add("long", RecordData::Txt(format!("{text:0150}"))).unwrap();
    }
    let mut asked = query("long.lab.", RecordType::TXT);
    let cut = ask(&zone, &asked);
    assert!(cut.metadata.truncation && cut.answers.is_empty());
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    asked.set_edns(edns);
    assert_eq!(ask(&zone, &asked).answers.len(), 6);
    for text in 6..20 {
        zone.add("long", RecordData::Txt(format!("{text:0150}"))).unwrap();
    }
    assert!(ask(&zone, &asked).metadata.truncation, "more than {UDP_LONGEST}, whatever the client takes");
    let whole = zone.answer(&asked.to_vec().unwrap(), TCP_LONGEST).unwrap();
    assert_eq!(Message::from_vec(&whole).unwrap().answers.len(), 20);
}

#[test]
fn what_is_no_query_for_us() {
    let zone = zone();
    let mut update = query("server-1.lab.", RecordType::A);
    update.metadata.op_code = OpCode::Update;
    let mut two = query("server-1.lab.", RecordType::A);
    two.add_query(Query::query(Name::root(), RecordType::A));
    assert_eq!(ask(&zone, &two).metadata.response_code, ResponseCode::FormErr);
    let broken = [&[0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &[70; 3]].concat();
    let told = Message::from_vec(&zone.answer(&broken, UDP_LONGEST).unwrap()).unwrap();
    assert_eq!((told.metadata.id, told.metadata.response_code), (9, ResponseCode::FormErr));
    let mut response = query("server-1.lab.", RecordType::A);
    response.metadata.message_type = MessageType::Response;
    assert_eq!(
        zone.answer(&response.to_vec().unwrap(), UDP_LONGEST),
        None,
        "two servers would answer each other"
    );
    assert_eq!(zone.answer(&broken[..11], UDP_LONGEST), None);
}

proptest! {
    #[test]
    fn any_bytes_are_taken(bytes in any::<Vec<u8>>()) {
        let zone = zone();
        let from_bytes = [&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1][..], &bytes].concat();
        for query in [&bytes, &from_bytes] {
            if let Some(answer) = zone.answer(query, UDP_LONGEST) {
                prop_assert!(answer.len() <= UDP_LONGEST.into());
            }
        }
    }
}

/// Found by the fuzzer: the questions were all said again, and the answer was longer than it may be.
#[test]
fn many_questions_do_not_make_a_long_answer() {
    let mut many = Message::new(7, MessageType::Query, OpCode::Query);
    for number in 0..200 {
        many.add_query(Query::query(Name::from_ascii(format!("n{number}.lab.")).unwrap(), RecordType::A));
    }
    let query = many.to_vec().unwrap();
    let answer = zone().answer(&query, UDP_LONGEST).unwrap();
    assert!(query.len() > usize::from(UDP_LONGEST) && answer.len() == 12, "{} bytes", answer.len());
    assert_eq!(Message::from_vec(&answer).unwrap().metadata.response_code, ResponseCode::FormErr);
}
