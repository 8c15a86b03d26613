// Package edgeclaim holds the nouns of an edge provisioning box: the template
// that scopes a key, the key, the claim, the device it makes, the credential
// the device gets and the record that tells the platform upstream about it.
//
// The package imports nothing but the standard library. The rule lives in
// provision, its durability in store, its two faces in broker (MQTT) and
// provision/httpapi (HTTP), the way up in bridge; none of those imports
// another, and what two of them share is a noun and stands here.
//
// # Promises
//
// Code and tests cite these by number.
//
//   - P1 Answered means durable. Device, credential, key accounting and the
//     upstream record are in one fsynced transaction before any PUBACK, MQTT
//     answer or HTTP 2xx. Where that fails, nobody hears a success.
//   - P2 Offline is normal. No step of a claim needs network, DNS, upstream or
//     a right clock. Start-up neither.
//   - P3 Refusals look alike. Unknown, disabled, expired or used-up key,
//     pattern mismatch, denied or revoked hardware: the same bytes, and no
//     sooner than [RefusalDelay] after receipt. The reason goes to the local
//     log, the audit, the console and the admin side's metrics, never to a
//     listener that a device can reach.
//   - P4 One hardware, one device, on every box. The device id is the UUIDv5 of
//     tenant and hardware id ([NewDeviceID]) unless an alias says otherwise.
//     Two boxes that never met agree. Ids are public knowledge.
//   - P5 Secrets are said once, to the one who asked. Only hashes at rest;
//     never in logs, events, metrics, errors, retained messages or to another
//     client.
//   - P6 Nothing is lost on the way up. A record leaves the outbox when the
//     upstream application has committed it or, against a plain broker, when
//     the broker really sent PUBACK. The provisioning lane is never dropped:
//     full, the box refuses claims, and warns long before.
//   - P7 Bounded, and honest about it. Memory, disk, connections and backlog
//     have limits; start-up time and memory do not depend on the backlog; what
//     must be dropped leaves a gap record saying what, how many, why.
//   - P8 A retry never harms. Any device or upstream message may be repeated at
//     any point, after any crash.
//   - P9 Deny wins. A revocation from upstream beats an offline accept. Nothing
//     is ever renamed to resolve a conflict.
//   - P10 Time neither deletes nor misjudges. Order comes from sequences, ages
//     from monotonic time, expiry from max(wall clock, floor). Only trustworthy
//     time raises the floor.
package edgeclaim
