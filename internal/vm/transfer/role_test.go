package transfer

const envRole = "REVOLVE_TRANSFER_ROLE"

func role() int { return 1 }
