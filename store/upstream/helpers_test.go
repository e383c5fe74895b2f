package upstream_test

// goldenCaches was made by Nix, with the script in it.
const goldenCaches = "../bincache/testdata/cache"
