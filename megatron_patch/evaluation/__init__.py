"""lm_eval on CMMLU and C-Eval without a network: data, tasks, scoring, results, comparison."""
