package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/fxamacker/cbor/v2"

	"edgeclaim"
)

// schemaVersion is what this program reads and writes. A file of an older
// version is migrated at Open, one of a newer version is refused.
const schemaVersion = 5

// The buckets. All keys that are numbers are eight bytes, big-endian.
var (
	bucketMeta      = []byte("meta")               // the keys below
	bucketDevices   = []byte("devices")            // row number, from 1, in order of claiming → id (16 bytes) + CBOR deviceRow
	bucketIndex     = []byte("device_index")       // device id (16 bytes) → row number
	bucketFolds     = []byte("device_folds")       // partition (2 bytes) → the row up to which device_index holds its ids
	bucketAliases   = []byte("device_aliases")     // tenant id + "/" + hardware id → device id (16 bytes), and aliasGiven where upstream gave it
	bucketTemplates = []byte("templates")          // number, from 1, in order of creation → CBOR templateRow
	bucketKeys      = []byte("keys")               // key id → CBOR keyRow
	bucketKeyHashes = []byte("key_hashes")         // SHA-256 (32 bytes) → key id
	bucketProv      = []byte("outbox_prov")        // place → CBOR recordRow
	bucketEvt       = []byte("outbox_evt")         // the same
	bucketParked    = []byte("quarantine")         // lane (1 byte) + place → CBOR parkedRow
	bucketParkedBy  = []byte("quarantine_devices") // lane + device id + place → lane: whose bucketParked holds some is a parked device
	bucketMoves     = []byte("moves")              // lane + device id → CBOR moveRow: what a crash must not leave half moved
	bucketExports   = []byte("exports")            // number → CBOR exportRow
	bucketDenied    = []byte("denied")             // tenant id (16 bytes, zero for every tenant) + hardware id → CBOR denialRow
	bucketPending   = []byte("pending")            // the device id it would get (16 bytes) → CBOR pendingRow
	bucketManifest  = []byte("manifest")           // template number + hardware id → CBOR manifestRow
	bucketTokens    = []byte("tokens")             // token id → CBOR tokenRow

	bucketCommands   = []byte("commands")       // number, from 1, in order of queueing → CBOR commandRow
	bucketCommandIDs = []byte("command_ids")    // device id (16 bytes) + command id → number
	bucketLive       = []byte("live_commands")  // number → 1: those that have not come to their end
	bucketEnded      = []byte("ended_commands") // number → 1: the others, so that the oldest is found at once
	bucketConfigs    = []byte("device_configs") // device id (16 bytes) → CBOR configRow

	bucketDocuments    = []byte("documents")       // DocumentID.String → CBOR heldRow
	bucketTexts        = []byte("document_texts")  // the same, of those that were taken → signed text
	bucketDocumentRows = []byte("document_rows")   // the same → CBOR rowsRow: what the next version is compared with
	bucketProfiles     = []byte("profiles")        // tenant id (16 bytes) + profile id, none for the default → CBOR profileRow
	bucketRevoked      = []byte("revoked")         // kind (1 byte) + tenant id + device id, hardware id or key's hash → CBOR revokedRow
	bucketExpected     = []byte("expected")        // tenant id + template id, 0, hardware id, 0, name of the document → CBOR manifestRow
	bucketWaiting      = []byte("waiting_aliases") // as in bucketAliases → CBOR waitingRow

	allBuckets = [][]byte{
		bucketMeta, bucketDevices, bucketIndex, bucketFolds, bucketAliases,
		bucketTemplates, bucketKeys, bucketKeyHashes, bucketProv, bucketEvt,
		bucketParked, bucketParkedBy, bucketMoves, bucketExports,
		bucketDenied, bucketPending, bucketManifest, bucketTokens,
		bucketCommands, bucketCommandIDs, bucketLive, bucketEnded, bucketConfigs,
		bucketDocuments, bucketTexts, bucketDocumentRows, bucketProfiles, bucketRevoked, bucketExpected, bucketWaiting,
	}
)

// The keys of the meta bucket.
var (
	metaSchema = []byte("schema")         // number
	metaBoxID  = []byte("box_id")         // text
	metaEpoch  = []byte("epoch")          // text
	metaBefore = []byte("previous_epoch") // text; not there in a box's first epoch
	metaFloor  = []byte("floor")          // CBOR instant
	metaState  = []byte("state")          // CBOR state
	metaTrust  = []byte("trust_since")    // CBOR instant; in a file that was migrated from schema 2
)

// errDamaged: what was read is not what was written.
var errDamaged = errors.New("damaged")

func damaged(what string, err error) error {
	if err == nil {
		return fmt.Errorf("%s: %w", what, errDamaged)
	}
	return fmt.Errorf("%s: %w: %w", what, errDamaged, err)
}

// state is the one row that every writing transaction rewrites, so that
// opening the store reads neither the devices nor the backlog (P7).
type state struct {
	Rows      uint64    `cbor:"1,keyasint"` // the last device row
	Templates uint64    `cbor:"2,keyasint"` // the last template number
	Prov      laneState `cbor:"3,keyasint"`
	Evt       laneState `cbor:"4,keyasint"`
	Moves     uint64    `cbor:"5,keyasint,omitempty"` // rows of bucketMoves
	Denied    uint64    `cbor:"6,keyasint,omitempty"` // of bucketDenied
	Pending   uint64    `cbor:"7,keyasint,omitempty"` // of bucketPending
	Tokens    uint64    `cbor:"8,keyasint,omitempty"` // of bucketTokens
	Listed    uint64    `cbor:"9,keyasint,omitempty"` // of bucketManifest

	Commands     uint64 `cbor:"10,keyasint,omitempty"` // rows of bucketCommands
	LiveCommands uint64 `cbor:"11,keyasint,omitempty"` // of bucketLive
	LastCommand  uint64 `cbor:"12,keyasint,omitempty"` // the last number
	EndedBytes   uint64 `cbor:"13,keyasint,omitempty"` // of the rows in bucketEnded, as encoded
	Configs      uint64 `cbor:"14,keyasint,omitempty"` // of bucketConfigs
	Events       uint64 `cbor:"15,keyasint,omitempty"` // see TakeEvents

	Documents uint64 `cbor:"16,keyasint,omitempty"` // rows of bucketDocuments
	Revoked   uint64 `cbor:"17,keyasint,omitempty"` // of bucketRevoked
	Expected  uint64 `cbor:"18,keyasint,omitempty"` // of bucketExpected
	Waiting   uint64 `cbor:"19,keyasint,omitempty"` // of bucketWaiting
	Profiles  uint64 `cbor:"20,keyasint,omitempty"` // of bucketProfiles
}

// laneState counts a lane. A record's place, its key in the bucket, is Base and
// its sequence: places only ascend, for ever, and a new epoch moves Base alone.
// Nothing lies in the lane below Front. From there to Appended lie the pending,
// and holes where records were parked.
type laneState struct {
	Appended uint64 `cbor:"1,keyasint"`
	Acked    uint64 `cbor:"2,keyasint"`
	Dropped  uint64 `cbor:"3,keyasint"`
	Bytes    uint64 `cbor:"4,keyasint"` // of the pending, as encoded
	Base     uint64 `cbor:"5,keyasint,omitempty"`
	Front    uint64 `cbor:"6,keyasint"`
	Parked   uint64 `cbor:"7,keyasint,omitempty"`
	// CheckAt and CheckHash are the Check of the last record acknowledged.
	CheckAt   uint64 `cbor:"8,keyasint,omitempty"`
	CheckHash string `cbor:"9,keyasint,omitempty"`
	// Held are the lane's records in quarantine, of whatever epoch.
	Held      uint64 `cbor:"10,keyasint,omitempty"`
	HeldBytes uint64 `cbor:"11,keyasint,omitempty"` // as encoded in the lane
}

func (l *laneState) place(sequence uint64) uint64 { return l.Base + sequence }
func (l *laneState) pending() uint64              { return l.Appended - l.Acked - l.Dropped - l.Parked }

// holes is how many sequences from Front on have no record in the lane.
func (l *laneState) holes() uint64 { return l.Appended + 1 - l.Front - l.pending() }

func (s *state) lane(lane edgeclaim.Lane) *laneState {
	if lane == edgeclaim.LaneProv {
		return &s.Prov
	}
	return &s.Evt
}

// lanes are those that lie in this file, in the order they are sent.
func lanes() []edgeclaim.Lane { return []edgeclaim.Lane{edgeclaim.LaneProv, edgeclaim.LaneEvt} }

// laneTag is a lane in a key, in the order of the lanes' names.
func laneTag(lane edgeclaim.Lane) byte { return lane[0] }

func laneOf(tag byte) (edgeclaim.Lane, error) {
	for _, lane := range lanes() {
		if laneTag(lane) == tag {
			return lane, nil
		}
	}
	return "", damaged("lane", nil)
}

func laneBucket(lane edgeclaim.Lane) []byte {
	if lane == edgeclaim.LaneProv {
		return bucketProv
	}
	return bucketEvt
}

// instant keeps a time.Time whole and makes its zero the zero instant, which
// nanoseconds since 1970 would not.
type instant struct {
	_    struct{} `cbor:",toarray"`
	Sec  int64    // since 0001-01-01T00:00:00Z
	Nsec int64
}

// secondsTo1970 is how long after the zero time.Time Unix time starts.
const secondsTo1970 = 62135596800

func toInstant(t time.Time) instant {
	return instant{Sec: t.Unix() + secondsTo1970, Nsec: int64(t.Nanosecond())}
}

func (i instant) time() time.Time { return time.Unix(i.Sec-secondsTo1970, i.Nsec).UTC() }

// toOptional is toInstant for a row that says nothing of the zero time.
func toOptional(t time.Time) *instant {
	if t.IsZero() {
		return nil
	}
	i := toInstant(t)
	return &i
}

// fromOptional undoes toOptional.
func fromOptional(i *instant) time.Time {
	if i == nil {
		return time.Time{}
	}
	return i.time()
}

type templateRow struct {
	ID                 string   `cbor:"1,keyasint"`
	Tenant             string   `cbor:"2,keyasint"`
	Name               string   `cbor:"3,keyasint"`
	Profile            string   `cbor:"4,keyasint,omitempty"`
	Pattern            string   `cbor:"5,keyasint,omitempty"`
	Expires            instant  `cbor:"6,keyasint"`
	OneTime            bool     `cbor:"7,keyasint,omitempty"`
	MaxClaims          uint32   `cbor:"8,keyasint,omitempty"`
	MaxClaimsPerMinute uint32   `cbor:"9,keyasint,omitempty"`
	Credential         string   `cbor:"10,keyasint"`
	Groups             []string `cbor:"11,keyasint,omitempty"`
	HardwareIDFormat   string   `cbor:"12,keyasint,omitempty"`
	Approval           string   `cbor:"13,keyasint"`
	Status             string   `cbor:"14,keyasint"`
	CreatedAt          instant  `cbor:"15,keyasint"`
	AllowList          bool     `cbor:"16,keyasint,omitempty"`
	ExpectedClaims     uint32   `cbor:"17,keyasint,omitempty"`
	Owner              string   `cbor:"18,keyasint,omitempty"` // not there: local
	Leased             bool     `cbor:"19,keyasint,omitempty"`
}

type keyRow struct {
	Template  string  `cbor:"1,keyasint"`
	Hash      []byte  `cbor:"2,keyasint"`
	Status    string  `cbor:"3,keyasint"`
	Claims    uint32  `cbor:"4,keyasint,omitempty"`
	UsedBy    []byte  `cbor:"5,keyasint,omitempty"`
	CreatedAt instant `cbor:"6,keyasint"`
	Granted   uint32  `cbor:"7,keyasint,omitempty"`
	Exhausted bool    `cbor:"8,keyasint,omitempty"`
}

type recordRow struct {
	Type   string  `cbor:"1,keyasint"`
	Device []byte  `cbor:"2,keyasint,omitempty"`
	Time   instant `cbor:"3,keyasint"`
	Clock  string  `cbor:"4,keyasint"`
	Boot   string  `cbor:"5,keyasint,omitempty"`
	Uptime int64   `cbor:"6,keyasint,omitempty"` // nanoseconds
	Data   []byte  `cbor:"7,keyasint,omitempty"`
}

// parkedRow is a record in quarantine. Its device is beside the record, so that
// even one that the disk has damaged is found and leaves whole.
type parkedRow struct {
	Record   []byte  `cbor:"1,keyasint"` // as it lay in the lane
	Device   []byte  `cbor:"2,keyasint,omitempty"`
	Epoch    string  `cbor:"3,keyasint"`
	Sequence uint64  `cbor:"4,keyasint"`
	Reason   string  `cbor:"5,keyasint,omitempty"`
	ParkedAt instant `cbor:"6,keyasint"`
}

// moveRow is a device's move that takes more than one transaction: into the
// quarantine, or out of it.
type moveRow struct {
	Out  bool   `cbor:"1,keyasint,omitempty"`
	Next uint64 `cbor:"2,keyasint,omitempty"` // on its way in: the place to look at next
	Last uint64 `cbor:"3,keyasint,omitempty"` // the last place to look at; what came later was parked at once
}

type exportRow struct {
	Nonce string    `cbor:"1,keyasint"`
	Upto  []markRow `cbor:"2,keyasint"`
}

type markRow struct {
	Epoch     string `cbor:"1,keyasint"`
	Lane      string `cbor:"2,keyasint"`
	Upto      uint64 `cbor:"3,keyasint"`
	CheckAt   uint64 `cbor:"4,keyasint,omitempty"`
	CheckHash string `cbor:"5,keyasint,omitempty"`
}

// number encodes a row number or place so that keys sort as numbers.
func number(n uint64) []byte { return binary.BigEndian.AppendUint64(make([]byte, 0, 8), n) }

func parseNumber(b []byte) (uint64, error) {
	if len(b) != 8 {
		return 0, damaged("number", nil)
	}
	return binary.BigEndian.Uint64(b), nil
}

func encodeTemplate(t *edgeclaim.Template) ([]byte, error) {
	owner := string(t.Owner)
	if t.Owner == edgeclaim.OwnerLocal {
		owner = ""
	}
	return cbor.Marshal(&templateRow{
		ID: t.ID.String(), Tenant: t.Tenant.String(), Name: t.Name, Profile: t.Profile, Pattern: t.Pattern,
		Expires: toInstant(t.Expires), OneTime: t.OneTime, MaxClaims: t.MaxClaims,
		MaxClaimsPerMinute: t.MaxClaimsPerMinute, Credential: string(t.Credential), Groups: t.Groups,
		HardwareIDFormat: string(t.HardwareIDFormat), Approval: string(t.Approval), Status: string(t.Status),
		CreatedAt: toInstant(t.CreatedAt), AllowList: t.AllowList, ExpectedClaims: t.ExpectedClaims,
		Owner: owner, Leased: t.Leased,
	})
}

func decodeTemplate(value []byte) (edgeclaim.Template, error) {
	var t edgeclaim.Template
	var row templateRow
	if err := cbor.Unmarshal(value, &row); err != nil {
		return t, damaged("template", err)
	}
	var errs [2]error
	t.ID, errs[0] = edgeclaim.ParseTemplateID(row.ID)
	t.Tenant, errs[1] = edgeclaim.ParseTenantID(row.Tenant)
	if err := errors.Join(errs[:]...); err != nil {
		return edgeclaim.Template{}, damaged("template", err)
	}
	t.Name, t.Profile, t.Pattern, t.Expires = row.Name, row.Profile, row.Pattern, row.Expires.time()
	t.OneTime, t.MaxClaims, t.MaxClaimsPerMinute = row.OneTime, row.MaxClaims, row.MaxClaimsPerMinute
	t.Credential, t.Groups = edgeclaim.CredentialType(row.Credential), row.Groups
	t.HardwareIDFormat, t.Approval = edgeclaim.HardwareIDFormat(row.HardwareIDFormat), edgeclaim.Approval(row.Approval)
	t.Status, t.CreatedAt = edgeclaim.TemplateStatus(row.Status), row.CreatedAt.time()
	t.AllowList, t.ExpectedClaims = row.AllowList, row.ExpectedClaims
	if t.Owner, t.Leased = edgeclaim.Owner(row.Owner), row.Leased; row.Owner == "" {
		t.Owner = edgeclaim.OwnerLocal
	}
	return t, nil
}

func encodeKey(k *edgeclaim.Key) ([]byte, error) {
	row := keyRow{
		Template: k.Template.String(), Hash: k.Hash.Bytes(), Status: string(k.Status),
		Claims: k.Claims, CreatedAt: toInstant(k.CreatedAt), Granted: k.Granted, Exhausted: k.Exhausted,
	}
	if !k.UsedBy.IsZero() {
		row.UsedBy = k.UsedBy.Bytes()
	}
	return cbor.Marshal(&row)
}

func decodeKey(id edgeclaim.KeyID, value []byte) (edgeclaim.Key, error) {
	k := edgeclaim.Key{ID: id}
	var row keyRow
	if err := cbor.Unmarshal(value, &row); err != nil {
		return k, damaged("key", err)
	}
	var errs [3]error
	k.Template, errs[0] = edgeclaim.ParseTemplateID(row.Template)
	k.Hash, errs[1] = edgeclaim.KeyHashFromBytes(row.Hash)
	if row.UsedBy != nil {
		k.UsedBy, errs[2] = edgeclaim.DeviceIDFromBytes(row.UsedBy)
	}
	if err := errors.Join(errs[:]...); err != nil {
		return edgeclaim.Key{}, damaged("key", err)
	}
	k.Status, k.Claims, k.CreatedAt = edgeclaim.KeyStatus(row.Status), row.Claims, row.CreatedAt.time()
	k.Granted, k.Exhausted = row.Granted, row.Exhausted
	return k, nil
}

func encodeRecord(r *edgeclaim.Record) ([]byte, error) {
	row := recordRow{
		Type: string(r.Type), Time: toInstant(r.Time), Clock: string(r.Clock),
		Boot: r.Boot, Uptime: int64(r.Uptime), Data: r.Data,
	}
	if !r.Device.IsZero() {
		row.Device = r.Device.Bytes()
	}
	return cbor.Marshal(&row)
}

// deviceOf reads no more of a record than whom it is about: zero for the box
// itself, and for a record that cannot be read.
func deviceOf(value []byte) edgeclaim.DeviceID {
	var row struct {
		Device []byte `cbor:"2,keyasint,omitempty"`
	}
	if err := cbor.Unmarshal(value, &row); err != nil {
		return edgeclaim.DeviceID{}
	}
	id, err := edgeclaim.DeviceIDFromBytes(row.Device)
	if err != nil {
		return edgeclaim.DeviceID{}
	}
	return id
}

func decodeRecord(lane edgeclaim.Lane, sequence uint64, value []byte) (edgeclaim.Record, error) {
	r := edgeclaim.Record{Lane: lane, Sequence: sequence}
	var row recordRow
	if err := cbor.Unmarshal(value, &row); err != nil {
		return r, damaged("record", err)
	}
	if row.Device != nil {
		id, err := edgeclaim.DeviceIDFromBytes(row.Device)
		if err != nil {
			return r, damaged("record", err)
		}
		r.Device = id
	}
	r.Type, r.Data = edgeclaim.RecordType(row.Type), row.Data
	r.Time, r.Clock, r.Boot, r.Uptime = row.Time.time(), edgeclaim.ClockState(row.Clock), row.Boot, time.Duration(row.Uptime)
	return r, nil
}
