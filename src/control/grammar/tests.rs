use super::*;
use crate::classify::GroupType;
use crate::config::SimulatePlan;
use crate::control::Refusal;
use crate::sched::Policy;
use crate::units::{Bytes, Sectors, Weight};
use proptest::prelude::*;

fn table(text: &str) -> TableLine {
    text.parse().unwrap_or_else(|refusal: Refusal| panic!("{text}: {refusal}"))
}

fn refused<T: std::str::FromStr<Err = Refusal> + std::fmt::Debug>(text: &str) -> String {
    let refusal = text.parse::<T>().expect_err(text);
    assert_eq!(refusal.errno, libc::EINVAL);
    refusal.sentence
}

fn weight(weight: u32) -> Weight {
    Weight::new(weight).unwrap()
}

fn share(weight: u32) -> Share {
    Share { weight: self::weight(weight), ..Share::default() }
}

#[test]
fn the_tables_of_dm_iobands_document() {
    let text = "0 32129937 ioband /dev/sda1 128 10 400 user weight 2048 :100 1000:80 2000:20";
    let line = table(text);
    let expected = TableLine {
        name: None,
        length: Sectors(32129937),
        device: TableDevice::Path("/dev/sda1".into()),
        id: 128,
        io_throttle: 10,
        io_limit: 400,
        group_type: GroupType::User,
        policy: Policy::Weight,
        token_base: 2048,
        default: share(100),
        groups: vec![("1000".into(), share(80)), ("2000".into(), share(20))],
    };
    assert_eq!(line, expected);
    assert_eq!(line.to_string(), text);
    // As `table` prints it, and with the blanks of a shell script.
    let line = table("ioband: 0 32129937\tioband 8:29 128  10 400 uid weight \n 2048 :100 1000:80 2000:20\n");
    assert_eq!(line.to_string(), format!("ioband: {}", text.replace("/dev/sda1", "8:29")));
    assert_eq!((line.name.as_deref(), line.device), (Some("ioband"), TableDevice::Number(8, 29)));
    assert_eq!(
        table("0 9 ioband /dev/sda1 1 0 0 none weight 0 :40").to_string(),
        "0 9 ioband /dev/sda1 1 0 0 none weight 0 :40"
    );
}

#[test]
fn the_default_groups_share_may_be_left_out() {
    assert_eq!(table("0 9 ioband a 1 0 0 none weight 0").default, Share::default());
    let line = table("0 9 ioband a 1 0 0 user range-bw 0 7:1:2");
    assert_eq!(line.to_string(), "0 9 ioband a 1 0 0 user range-bw 0 :0:0 7:1:2");
}

#[test]
fn numbers_stand_behind_the_last_colons() {
    let line = table("0 9 ioband a 1 0 0 cgroup weight 0 :7 /a:b:8:9 max_iops /a:b:8:5");
    let expected = Share { max_iops: Some(5), ..share(9) };
    assert_eq!(line.groups, [("/a:b:8".to_owned(), expected)]);
    let line = table("0 9 ioband a 1 0 0 image range-bw 0 x:1:2:3 weight x:1:50 bandwidth_burst x:1:0");
    let expected = Share { min: 2, max: 3, bandwidth_burst: Some(0), ..share(50) };
    assert_eq!(line.groups, [("x:1".to_owned(), expected)]);
}

#[test]
fn extras_come_in_any_order_and_leave_in_one() {
    let line =
        table("0 9 ioband a 1 0 0 user weight 0 1:80 max_iops 1:2000 max_bandwidth :52428800 max_iops :7");
    assert_eq!(
        line.to_string(),
        "0 9 ioband a 1 0 0 user weight 0 :100 1:80 max_bandwidth :52428800 max_iops :7 max_iops 1:2000"
    );
}

#[test]
fn a_path_is_one_word() {
    for (path, word) in [
        ("/home/me/my stuff/disk", "/home/me/my\\040stuff/disk"),
        ("a\\b\nc\u{a0}d", "a\\134b\\012c\\302\\240d"),
        ("/dev/disk/by-id/ü", "/dev/disk/by-id/ü"),
        ("a\\040", "a\\134040"),
        // In the current folder, and no block device.
        ("8:29", "8\\07229"),
    ] {
        let device = TableDevice::Path(path.into());
        assert_eq!(device.to_string(), word);
        assert_eq!(word.parse(), Ok(device));
    }
    for word in ["8:29:1", "99999999999999999999:1", "a\\9", "a\\", "a\\+12", "a\\400", "a\\4ü"] {
        let device: TableDevice = word.parse().unwrap();
        assert_eq!(device, TableDevice::Path(word.into()));
    }
    assert!(refused::<TableDevice>("a\\303").contains("not text"));
}

#[test]
fn tables_are_refused_by_the_word_that_is_wrong() {
    for (text, part) in [
        ("", "ends before START"),
        ("0", "ends before LENGTH"),
        ("0 9 ioband a 1 0 0 none", "ends before POLICY"),
        ("1 9 ioband a 1 0 0 none weight 0", "starts at sector 0, not at `1`"),
        ("-1 9 ioband a 1 0 0 none weight 0", "not at `-1`"),
        ("a/b: 0 9 ioband a 1 0 0 none weight 0", "holds a slash"),
        (": 0 9 ioband a 1 0 0 none weight 0", "the name of the device is empty"),
        ("0 0 ioband a 1 0 0 none weight 0", "the length is `0`"),
        ("0 18014398509481984 ioband a 1 0 0 none weight 0", "the length is `18014398509481984`"),
        ("0 9 linear a 1 0 0 none weight 0", "no target `linear`"),
        ("0 9 ioband a x 0 0 none weight 0", "the device id is `x`, which is not a whole number"),
        ("0 9 ioband a 1 65536 0 none weight 0", "io_throttle is `65536`"),
        ("0 9 ioband a 1 0 -1 none weight 0", "io_limit is `-1`"),
        ("0 9 ioband a 1 0 0 users weight 0", "did you mean `user`?"),
        ("0 9 ioband a 1 0 0 user wieght 0", "did you mean `weight`?"),
        ("0 9 ioband a 1 0 0 user weight 1000001", "the token base is `1000001`"),
        ("0 9 ioband a 1 0 0 user weight 0 :0", "the weight is `0`, which is outside 1 to 32767"),
        ("0 9 ioband a 1 0 0 user weight 0 :32768", "the weight is `32768`"),
        ("0 9 ioband a 1 0 0 user weight 0 5:", "the weight is empty"),
        ("0 9 ioband a 1 0 0 user weight 0 80", "`80` is neither a group with its share nor"),
        ("0 9 ioband a 1 0 0 user weight 0 :1 5:2 :3", "the default group stands twice"),
        ("0 9 ioband a 1 0 0 user weight 0 5:2 5:2", "group `5` stands twice"),
        ("0 9 ioband a 1 0 0 user weight 0 -1:5", "write `:WEIGHT`"),
        ("0 9 ioband a 1 0 0 user range-bw 0 -1:5:6", "write `:MIN:MAX`"),
        ("0 9 ioband a 1 0 0 user range-bw 0 1:5", "under range-bw write ID:MIN:MAX"),
        ("0 9 ioband a 1 0 0 user range-bw 0 1:6:5", "minimum of group `1` is 6 KB/s, above its maximum, 5"),
        ("0 9 ioband a 1 0 0 user range-bw 0 :9007199254740992:0", "the minimum is `9007199254740992`"),
        ("0 9 ioband a 1 0 0 user weight 0 max_iop 1:5", "did you mean `max_iops`?"),
        ("0 9 ioband a 1 0 0 user weight 0 max_iops", "`max_iops` has no value"),
        ("0 9 ioband a 1 0 0 user weight 0 max_iops 5", "`max_iops` has no value"),
        ("0 9 ioband a 1 0 0 user weight 0 max_iops 1:5", "group `1`, which is not in the table"),
        ("0 9 ioband a 1 0 0 user weight 0 max_iops :5 max_iops :6", "stands twice"),
        ("0 9 ioband a 1 0 0 user weight 0 max_iops :5 1:5", "behind the groups stand pairs"),
        ("0 9 ioband a 1 0 0 user weight 0 weight :5", "`weight` is neither a group"),
        ("0 9 ioband a 1 0 0 user range-bw 0 max_bandwidth :5", "`max_bandwidth` is neither a group"),
    ] {
        let sentence = refused::<TableLine>(text);
        assert!(sentence.contains(part), "{text}: {sentence}");
        assert!(!sentence.contains('\n') && !sentence.ends_with('.'), "{sentence}");
    }
}

#[test]
fn every_message() {
    use LimitKey::*;
    let id = |id: &str| Some(id.to_owned());
    let simulate = |iops, bandwidth| SimulatePlan { iops, bandwidth, parallel: 3 };
    let mib = Some(Bytes(1 << 20));
    for (text, message, printed) in [
        ("type user", Message::Type(GroupType::User), "type user"),
        ("type  uid\n", Message::Type(GroupType::User), "type user"),
        ("attach 1000", Message::Attach("1000".into()), "attach 1000"),
        ("detach a:b", Message::Detach("a:b".into()), "detach a:b"),
        ("weight 40", Message::Weight(None, weight(40)), "weight 40"),
        ("weight :40", Message::Weight(None, weight(40)), "weight 40"),
        ("weight -1:40", Message::Weight(None, weight(40)), "weight 40"),
        ("weight a:b:40", Message::Weight(id("a:b"), weight(40)), "weight a:b:40"),
        ("token 0", Message::Token(0), "token 0"),
        ("token 256", Message::Token(256), "token 256"),
        ("io_throttle 16", Message::IoThrottle(16), "io_throttle 16"),
        ("io_limit 128", Message::IoLimit(128), "io_limit 128"),
        ("policy weight-iosize", Message::Policy(Policy::WeightIosize), "policy weight-iosize"),
        ("range-bw 1:2", Message::RangeBw(None, 1, 2), "range-bw 1:2"),
        ("range-bw -1:1:0", Message::RangeBw(None, 1, 0), "range-bw 1:0"),
        ("range-bw a:b:1:2", Message::RangeBw(id("a:b"), 1, 2), "range-bw a:b:1:2"),
        ("max_bandwidth 1MiB/s", Message::Limit(MaxBandwidth, None, 1 << 20), "max_bandwidth 1MiB"),
        ("max_bandwidth 7:0", Message::Limit(MaxBandwidth, id("7"), 0), "max_bandwidth 7:0"),
        ("bandwidth_burst 7:512", Message::Limit(BandwidthBurst, id("7"), 512), "bandwidth_burst 7:512"),
        ("max_iops 7:1024", Message::Limit(MaxIops, id("7"), 1024), "max_iops 7:1024"),
        ("iops_burst -1:2", Message::Limit(IopsBurst, None, 2), "iops_burst 2"),
        ("simulate none", Message::Simulate(None), "simulate none"),
        ("simulate 5:1M:3", Message::Simulate(Some(simulate(Some(5), mib))), "simulate 5:1MiB:3"),
        ("simulate 0:1024K/s:3", Message::Simulate(Some(simulate(None, mib))), "simulate 0:1MiB:3"),
        ("simulate 5:0:3", Message::Simulate(Some(simulate(Some(5), None))), "simulate 5:0:3"),
        ("reset", Message::Reset, "reset"),
        ("reopen", Message::Reopen, "reopen"),
    ] {
        assert_eq!(text.parse(), Ok(message), "{text}");
        assert_eq!(text.parse::<Message>().unwrap().to_string(), printed);
    }
}

#[test]
fn messages_are_refused_by_the_word_that_is_wrong() {
    for (text, part) in [
        ("", "the message is empty"),
        ("wieght 5", "there is no message `wieght`; did you mean `weight`?"),
        ("reset 5", "`5` is one word too many for `reset`"),
        ("attach", "`attach` says nothing; write `attach ID`"),
        ("attach 1 2", "`2` is one word too many for `attach`"),
        ("attach -1", "always there"),
        ("detach -1", "always there"),
        ("type user.", "did you mean `user`?"),
        ("weight 0", "outside 1 to 32767"),
        ("weight 1:32768", "outside 1 to 32767"),
        ("weight 1:", "the weight is empty"),
        ("token -1", "the token base is `-1`"),
        ("io_limit 70000", "io_limit is `70000`, which is outside 0 to 65535"),
        ("policy fair", "no policy"),
        ("range-bw 5", "write `range-bw ID:MIN:MAX`"),
        ("range-bw 6:5", "the minimum of the default group is 6 KB/s, above its maximum, 5"),
        ("range-bw 1:1.5:2", "the minimum is `1.5`"),
        ("max_bandwidth fast", "not a bandwidth"),
        ("max_iops 1000000001", "max_iops is `1000000001`, which is outside"),
        ("simulate 1:2", "write `simulate IOPS:BANDWIDTH:PARALLEL`"),
        ("simulate 0:0:1", "neither iops nor bandwidth"),
        ("simulate 1:1:0", "the number of servers is `0`"),
    ] {
        let sentence = refused::<Message>(text);
        assert!(sentence.contains(part), "{text}: {sentence}");
        assert!(!sentence.contains('\n') && !sentence.ends_with('.'), "{sentence}");
    }
}

/// Ids with everything that might mislead a reader.
fn ids() -> impl Strategy<Value = String> {
    "[0-9]{1,5}|/[a-z:./\\\\-]{1,12}|[a-zé:#'\"{},@~%0-9_-]{1,12}"
        .prop_filter("the default group", |id| id != "-1")
}

fn shares(policy: Policy) -> BoxedStrategy<Share> {
    let limits = (
        prop::option::of(1u64..1 << 63),
        prop::option::of(0u64..1 << 63),
        prop::option::of(1u64..1_000_000_000),
        prop::option::of(0u64..1_000_000_000),
    );
    let range = (0u64..1 << 20, prop_oneof![Just(0u64), (1u64 << 20)..1 << 53]);
    (1u32..=Weight::MAX, range, limits)
        .prop_map(move |(weight, (min, max), (max_bandwidth, bandwidth_burst, max_iops, iops_burst))| {
            let range = policy == Policy::RangeBw;
            let (min, max) = if range { (min, max) } else { (0, 0) };
            let max_bandwidth = max_bandwidth.filter(|_| !range);
            let weight = self::weight(weight);
            Share { weight, min, max, max_bandwidth, bandwidth_burst, max_iops, iops_burst }
        })
        .boxed()
}

fn lines() -> impl Strategy<Value = TableLine> {
    let device = prop_oneof![
        "[^\u{0}]{1,12}".prop_map(TableDevice::Path),
        "[0-9]{1,3}:[0-9]{1,3}".prop_map(TableDevice::Path),
        any::<(u64, u64)>().prop_map(|(major, minor)| TableDevice::Number(major, minor)),
    ];
    let name = prop::option::of("[a-z0-9:é\\\\-]{1,8}");
    let numbers = (1u64..1 << 54, any::<u32>(), 0u32..65536, 0u32..65536, 0u32..=1_000_000);
    let kind = (prop::sample::select(&GroupType::ALL), prop::sample::select(&Policy::ALL));
    (name, device, numbers, kind).prop_flat_map(|(name, device, numbers, (group_type, policy))| {
        let groups = prop::collection::btree_map(ids(), shares(policy), 0..5);
        (shares(policy), groups).prop_map(move |(default, groups)| TableLine {
            name: name.clone(),
            length: Sectors(numbers.0),
            device: device.clone(),
            id: numbers.1,
            io_throttle: numbers.2,
            io_limit: numbers.3,
            group_type,
            policy,
            token_base: numbers.4,
            default,
            groups: groups.into_iter().collect(),
        })
    })
}

fn messages() -> impl Strategy<Value = Message> {
    let id = || prop::option::of(ids());
    let simulate =
        (0u64..1_000_000_000, 1u64..1 << 63, 1u32..=1024).prop_map(|(iops, bandwidth, parallel)| {
            SimulatePlan {
                iops: Some(iops).filter(|iops| *iops > 0),
                bandwidth: Some(Bytes(bandwidth)),
                parallel,
            }
        });
    prop_oneof![
        prop::sample::select(&GroupType::ALL).prop_map(Message::Type),
        ids().prop_map(Message::Attach),
        ids().prop_map(Message::Detach),
        (id(), 1u32..=Weight::MAX).prop_map(|(id, w)| Message::Weight(id, weight(w))),
        (0u32..=1_000_000).prop_map(Message::Token),
        (0u32..65536).prop_map(Message::IoThrottle),
        (0u32..65536).prop_map(Message::IoLimit),
        prop::sample::select(&Policy::ALL).prop_map(Message::Policy),
        (id(), 0u64..500, 500u64..1 << 53).prop_map(|(id, min, max)| Message::RangeBw(id, min, max)),
        (prop::sample::select(&LimitKey::ALL), id(), 0u64..1_000_000_000)
            .prop_map(|(key, id, value)| Message::Limit(key, id, value)),
        prop::option::of(simulate).prop_map(Message::Simulate),
        Just(Message::Reset),
        Just(Message::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_a_table_prints_reads_back(line in lines()) {
        let text = line.to_string();
        prop_assert_eq!(text.parse::<TableLine>(), Ok(line), "{}", text);
    }

    #[test]
    fn what_a_message_prints_reads_back(message in messages()) {
        let text = message.to_string();
        prop_assert_eq!(text.parse::<Message>(), Ok(message), "{}", text);
    }

    #[test]
    fn no_text_makes_a_reader_panic(text in any::<String>()) {
        let _ = (text.parse::<TableLine>(), text.parse::<Message>());
    }

    /// Words that mean something, in any order.
    #[test]
    fn what_was_read_prints_the_same_for_ever(
        head in prop::option::of(Just("x: 0 8 ioband a\\040b 1 0 0 image")),
        words in prop::collection::vec(
            "weight|range-bw|0|:5|7:5|7:1:2|:0:0|max_iops|iops_burst|max_bandwidth|-1:4|a:b:3|attach|simulate|none|\u{85}|\\\\303",
            0..9,
        ),
    ) {
        let text = format!("{} {}", head.unwrap_or_default(), words.join(" "));
        if let Ok(line) = text.parse::<TableLine>() {
            prop_assert_eq!(line.to_string().parse(), Ok(line));
        }
        if let Ok(message) = words.join(" ").parse::<Message>() {
            prop_assert_eq!(message.to_string().parse(), Ok(message));
        }
    }
}
