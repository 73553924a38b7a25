// Where the reference gateway, or a library against it, falls short of what is expected here.
//
// The scenarios keep the expectation; with `--reference` such a failure is reported and forgiven.
// The reason says whose shortcoming it is.

export const knownReference = {};

/** The same for `conformance.mjs`, by check. */
export const knownReferenceChecks = {};
