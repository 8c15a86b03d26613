package registry

// documentTables is the fourth step of migrations: documents, what follows from
// them, and what boxes say of them.
func documentTables() []string {
	return []string{
		`ALTER TABLE holdings ADD COLUMN tags TEXT NOT NULL DEFAULT ''`,
		// What was decided against, for the boxes to be told.
		`CREATE INDEX holdings_decided ON holdings (number, box) WHERE ` + decidedAgainst,
		// Signed documents, as they came. id is DocumentID.String; box and site are
		// whom it is for, empty for all. in_force: some box may be offered it.
		`CREATE TABLE documents (number INTEGER_KEY, id TEXT NOT NULL, type TEXT NOT NULL, tenant TEXT NOT NULL,
			version BIGINT NOT NULL, box TEXT NOT NULL, site TEXT NOT NULL, hash TEXT NOT NULL, key_id TEXT NOT NULL,
			issued_at BIGINT NOT NULL, published_at BIGINT NOT NULL, in_force SMALLINT NOT NULL, size BIGINT NOT NULL,
			signed BYTES NOT NULL, UNIQUE (id, version))`,
		`CREATE INDEX documents_in_force ON documents (number) WHERE in_force = 1`,
		// What the documents in force say, where it is asked for by a key.
		`CREATE TABLE document_keys (document BIGINT NOT NULL, key_id TEXT NOT NULL, template TEXT NOT NULL, bound BIGINT NOT NULL,
			PRIMARY KEY (document, key_id)) CLUSTERED`,
		`CREATE INDEX document_keys_key ON document_keys (key_id)`,
		`CREATE TABLE revoked_devices (tenant TEXT NOT NULL, device BYTES NOT NULL, PRIMARY KEY (tenant, device)) CLUSTERED`,
		`CREATE TABLE revoked_hardware (tenant TEXT NOT NULL, hardware TEXT NOT NULL, PRIMARY KEY (tenant, hardware)) CLUSTERED`,
		// What the boxes say of their documents; list and page are the report's.
		`CREATE TABLE box_documents (box BIGINT NOT NULL, id TEXT NOT NULL, version BIGINT NOT NULL, hash TEXT NOT NULL,
			confirmed SMALLINT NOT NULL, stale SMALLINT NOT NULL, age BIGINT NOT NULL, refused TEXT NOT NULL,
			refused_version BIGINT NOT NULL, list TEXT NOT NULL, page BIGINT NOT NULL, reported_at BIGINT NOT NULL,
			PRIMARY KEY (box, id)) CLUSTERED`,
		// What each box may make with a key, and has made.
		`CREATE TABLE shares (key_id TEXT NOT NULL, box BIGINT NOT NULL, granted BIGINT NOT NULL, claims BIGINT NOT NULL,
			asked_at BIGINT NOT NULL, PRIMARY KEY (key_id, box)) CLUSTERED`,
		`CREATE INDEX shares_box ON shares (box)`,
		`INSERT INTO shares (key_id, box, granted, claims, asked_at)
			SELECT key_id, box, 0, COUNT(*), 0 FROM holdings WHERE key_id <> '' GROUP BY key_id, box`,
		// Boards that took a device over, by the boxes' word.
		`CREATE TABLE swaps (tenant TEXT NOT NULL, hardware TEXT NOT NULL, device BYTES NOT NULL, replaces TEXT NOT NULL,
			box BIGINT NOT NULL, told_at BIGINT NOT NULL, PRIMARY KEY (tenant, hardware)) CLUSTERED`,
		`CREATE INDEX swaps_device ON swaps (tenant, device)`,
		// Boards that somebody has announced.
		`CREATE TABLE expected (tenant TEXT NOT NULL, hardware TEXT NOT NULL, template TEXT NOT NULL, profile TEXT NOT NULL,
			name TEXT NOT NULL, group_names TEXT NOT NULL, tags TEXT NOT NULL, device BYTES, imported_at BIGINT NOT NULL,
			PRIMARY KEY (tenant, hardware, template)) CLUSTERED`,
	}
}
