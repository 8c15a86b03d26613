package document

// What tests need to know.
const (
	AlarmEvery = alarmEvery
	SaveEvery  = saveEvery
	LookEvery  = lookEvery
	MaxRefused = maxRefused
	MaxChain   = maxChain
)
