//! Rows that were moved, mixed, edited or damaged: only their own item fails, nothing comes out, and the log says so.

use super::*;
use crate::crypto::Handle;
use crate::crypto::record::{Header, State};

/// Presents `broken` between two good tokens, in every way, and holds the answers against what must be.
async fn assert_corrupt(f: &Fixture, scope: &str, broken: &Issued, why: &str) {
    let tester = f.tester();
    let good = tester.issue(scope, item(b"good")).await;
    let row = f.site.row(Table::Tokens, broken.handle.as_bytes());
    let tokens = [&*good.token, &broken.token, &good.token];
    let expected = Ok(vec![Ok(b"good".to_vec()), Err(ItemFailure::DataLoss), Ok(b"good".to_vec())]);
    assert_eq!(tester.show(scope, &tokens).await, expected, "{why}");
    let event = f.last_event();
    assert_eq!(outcomes(&event), [ItemOutcome::Released, ItemOutcome::Corrupt, ItemOutcome::Released], "{why}");
    assert_eq!(event.handles[1], broken.handle.as_bytes()[..], "{why}");
    let inspected = tester.inspect(scope, &[&broken.token, &good.token], &[]).await.unwrap().results;
    assert!(matches!(inspected[..], [Err(ItemFailure::DataLoss), Ok(_)]), "{why}");
    assert_eq!(outcomes(&f.last_event()), [ItemOutcome::Corrupt, ItemOutcome::Done], "{why}");
    let revoked = tester.revoke(scope, &[&broken.token], &[]).await.unwrap().results;
    assert_eq!(revoked, [Err(ItemFailure::DataLoss)], "{why}");
    assert_eq!(outcomes(&f.last_event()), [ItemOutcome::Corrupt], "{why}");
    assert!(f.site.row(Table::Tokens, broken.handle.as_bytes()) == row, "and it stays as it is: {why}");
}

fn swap(f: &Fixture, one: &Handle, other: &Handle) {
    let (first, second) = (f.row(one), f.row(other));
    f.put(one, &second);
    f.put(other, &first);
}

#[tokio::test]
async fn rows_that_changed_places_do_not_open_c_02() {
    let f = Fixture::new();
    let tester = f.tester();
    let (a, b) = (tester.issue("pan", item(b"a")).await, tester.issue("pan", item(b"b")).await);
    swap(&f, &a.handle, &b.handle);
    assert_corrupt(&f, "pan", &a, "swapped within a scope").await;
    assert_corrupt(&f, "pan", &b, "swapped within a scope").await;
    swap(&f, &a.handle, &b.handle);
    assert_eq!(tester.show("pan", &[&a.token, &b.token]).await, values(&[b"a", b"b"]), "back in their places");

    let ssn = tester.issue("ssn", item(b"ssn")).await;
    swap(&f, &a.handle, &ssn.handle);
    assert_corrupt(&f, "pan", &a, "from another scope").await;
    assert_corrupt(&f, "ssn", &ssn, "from another scope").await;
    swap(&f, &a.handle, &ssn.handle);

    // A copy under a handle that has none: whose token that would be, nobody knows.
    let nobody = Handle::new(1, [9; 16]);
    f.put(&nobody, &f.row(&a.handle));
    let inspected = tester.inspect("pan", &[], &[nobody.to_string()]).await.unwrap().results;
    assert_eq!(inspected, [Err(ItemFailure::DataLoss)]);
    f.close().check();
}

#[tokio::test]
async fn every_field_of_the_header_is_bound_c_02() {
    let f = Fixture::new();
    let tester = f.tester();
    let victim = tester.issue("pan", limited(PAN, 1)).await;
    let row = f.row(&victim.handle);
    let mut edits = 0;
    let fields: [(&str, usize, &[u8]); 12] = [
        ("state", 2, &[2]),
        ("suspended", 2, &[3]),
        ("scope", 3, &[0, 0, 0, 2]),
        ("index key version", 7, &[0, 0, 0, 2]),
        ("data key version", 11, &[0, 0, 0, 2]),
        ("record version", 15, &[0, 0, 0, 2]),
        ("created", 19, &[0; 8]),
        ("changed", 27, &[0; 8]),
        ("expires", 35, &[0, 0, 0xe6, 0x77, 0xd2, 0x1f, 0xdb, 0xff]),
        ("uses left", 43, &[0xff; 4]),
        ("inner salt", 47, &[1; 16]),
        ("outer salt", 63, &[1; 16]),
    ];
    for (field, at, bytes) in fields {
        let mut edited = row.clone();
        edited[at..at + bytes.len()].copy_from_slice(bytes);
        assert_ne!(edited, row, "{field}");
        f.put(&victim.handle, &edited);
        assert_corrupt(&f, "pan", &victim, field).await;
        edits += 1;
    }
    // Without the limit: the flag and its field taken out.
    let mut unlimited = row.clone();
    unlimited[1] = 0;
    unlimited.drain(43..47);
    f.put(&victim.handle, &unlimited);
    assert_corrupt(&f, "pan", &victim, "uses left taken out").await;
    f.put(&victim.handle, &row);
    assert_eq!(tester.show("pan", &[&victim.token]).await, values(&[PAN]), "the row itself is good, and has its use");
    assert_eq!(tester.show("pan", &[&victim.token]).await, nothing(1));
    println!("damage: {} edits of headers, all found", edits + 1);
    f.check();
}

#[tokio::test]
async fn no_bit_can_be_flipped_and_no_byte_cut_off_c_03() {
    let f = Fixture::new();
    let tester = f.tester();
    let victim = tester.issue("pan", item(PAN)).await;
    let good = tester.issue("pan", item(b"good")).await;
    let row = f.row(&victim.handle);
    let mut broken: Vec<Vec<u8>> = Vec::new();
    for bit in 0..row.len() * 8 {
        let mut flipped = row.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        broken.push(flipped);
    }
    broken.extend((0..row.len()).map(|length| row[..length].to_vec()));
    broken.extend([1, 16, 17, 100].map(|more| [&row[..], &vec![0; more]].concat()));
    broken.push(vec![0; row.len()]);
    broken.push(vec![0xff; row.len()]);
    for (place, row) in broken.iter().enumerate() {
        f.put(&victim.handle, row);
        let expected = Ok(vec![Err(ItemFailure::DataLoss), Ok(b"good".to_vec())]);
        assert_eq!(tester.show("pan", &[&victim.token, &good.token]).await, expected, "{place}");
        let inspected = tester.inspect("pan", &[&victim.token], &[]).await.unwrap().results;
        assert_eq!(inspected, [Err(ItemFailure::DataLoss)], "{place}");
    }
    f.put(&victim.handle, &row);
    assert_eq!(tester.show("pan", &[&victim.token]).await, values(&[PAN]));
    println!("damage: {} broken rows of {} bytes, no value, no panic", broken.len(), row.len());
    f.check();
}

#[tokio::test]
async fn a_row_that_the_disk_can_not_read_fails_alone_s_09() {
    let f = Fixture::new();
    let tester = f.tester();
    let issued = tester.issue_all("pan", (0..150).map(|n| item(format!("{n}").as_bytes())).collect()).await;
    let tokens: Vec<&str> = issued.iter().map(|issued| issued.token.as_str()).collect();
    for cold in [false, true] {
        f.site.store.chill(cold);
        for place in [5, 77] {
            f.site.store.damage(Table::Tokens, issued[place].handle.as_bytes());
        }
        let shown = tester.show("pan", &tokens).await.unwrap();
        for (place, result) in shown.iter().enumerate() {
            let expected =
                if place == 5 || place == 77 { Err(ItemFailure::DataLoss) } else { Ok(place.to_string().into_bytes()) };
            assert_eq!(*result, expected, "{place}, cold: {cold}");
        }
        let event = f.last_event();
        assert_eq!(
            (outcomes(&event)[5], outcomes(&event)[77], event.succeeded),
            (ItemOutcome::Corrupt, ItemOutcome::Corrupt, 148)
        );
        let alone = tester.inspect("pan", &[&issued[5].token], &[]).await.unwrap().results;
        assert_eq!(alone, [Err(ItemFailure::DataLoss)]);
        let revoked = tester.revoke("pan", &[], &[issued[77].handle.to_string()]).await.unwrap().results;
        assert_eq!(revoked, [Err(ItemFailure::DataLoss)]);
    }
    f.close();
}

/// As docs/threat-model.md says: an authentic older copy is for `cloakroom verify` and the checkpoints to find, not for opening.
#[tokio::test]
async fn known_gap_an_older_row_put_back_opens() {
    let f = Fixture::new();
    let tester = f.tester();
    let token = tester.issue("pan", item(PAN)).await;
    let before = f.row(&token.handle);
    tester.revoke("pan", &[&token.token], &[]).await.unwrap();
    assert_eq!(tester.show("pan", &[&token.token]).await, nothing(1));
    f.put(&token.handle, &before);
    assert_eq!(tester.show("pan", &[&token.token]).await, values(&[PAN]));
    f.close().check();
}

#[tokio::test]
async fn without_the_token_an_outer_lock_gives_no_value() {
    // Whoever has every key of the vault can forge a header, and has no value for it.
    let f = Fixture::new();
    let tester = f.tester();
    let (mine, other) = (tester.issue("pan", item(b"mine")).await, tester.issue("pan", item(b"others")).await);
    let (_, key, unlocked) = unlock(&f.vault, "pan", &other.handle, &f.row(&other.handle));
    let header = Header { state: State::Active, ..*unlocked.header() };
    let moved = unlocked.relock(f.vault.keyring().vault(), &mine.handle, &key, &header, [3; 16]);
    f.put(&mine.handle, &moved);
    assert_eq!(tester.show("pan", &[&mine.token]).await, Ok(vec![Err(ItemFailure::DataLoss)]));
    assert_eq!(outcomes(&f.last_event()), [ItemOutcome::Corrupt]);
    f.close().check();
}
