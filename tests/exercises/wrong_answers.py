"""Plausible wrong answers to each exercise: (lines of the script, what stands in their place, what
the message must say).
"""

WRONG_ANSWERS = {
    "reward-to-go": [
        ("reward[t] + gamma * later", "reward[t] + later", "γ is missing"),
        ("to_go[t] = reward[t] + gamma * later", "to_go[t] = reward.sum(0)", "with γ = ½"),
        ("reversed(range(len(reward)))", "range(len(reward))", "it runs forwards"),
        ("reward[t] + gamma * later", "gamma * (reward[t] + later)", "discounted, too"),
    ],
    "td-error": [
        ("value[1:]", "value[:-1]", "bootstraps with V(s_t)"),
        (" * has_next_value", "", "V(s_{t+1}) is bootstrapped"),
        (" - value[:-1]", "", "− V(s_t) is missing"),
    ],
    "gae": [
        (
            "goes_on = (~(terminated | truncated))",
            "goes_on = (~terminated)",
            "crosses it, at step 3",
        ),
        (
            "has_next_value = (~terminated)",
            "has_next_value = (~(terminated | truncated))",
            "treated as a termination",
        ),
        ("value[1:]", "value[:-1]", "bootstraps with V(s_t)"),
        ("gamma * lam *", "gamma *", "λ is missing"),
    ],
}
