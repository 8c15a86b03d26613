package edgeclaim

// Revoked is what revocations from upstream came to on a box.
type Revoked struct {
	// Devices are those that were active until then and are void now.
	Devices []Device
	// Keys are those revoked by it that had made devices here.
	Keys []Key
}

// TemplatesApplied is what templates from upstream came to on a box.
type TemplatesApplied struct {
	// Revoked are the keys revoked by it that had made devices here.
	Revoked []Key
	// Templates and Keys are how many the document names, Disabled how many
	// templates and keys it left out, and so disabled.
	Templates, Keys, Disabled int
}

// AliasesApplied is what aliases from upstream came to on a box.
type AliasesApplied struct {
	// Devices are those that the change was given, as they are now.
	Devices []Device
}
