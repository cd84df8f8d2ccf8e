// The scripts are joined into one: a name may be made in one file and read in another.
export default [
  {
    files: ["*.js"],
    languageOptions: { ecmaVersion: 2022, sourceType: "script" },
    rules: {
      "no-unused-vars": ["error", { vars: "local" }],
      "no-redeclare": "error",
      "no-const-assign": "error",
      "no-dupe-keys": "error",
      "no-unreachable": "error",
      "no-var": "error",
      "prefer-const": "error",
      "eqeqeq": "error",
      "no-implied-eval": "error",
      "no-eval": "error",
      "no-control-regex": "error",
      "no-restricted-properties": ["error", { property: "innerHTML" }, { property: "outerHTML" }, { property: "insertAdjacentHTML" }],
    },
  },
];
