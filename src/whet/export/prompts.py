"""The fixed prompts of the proof: everyday sentences, numbers, code, other scripts and white space."""

PLAIN = (
    "The harbour was quiet when the last boat came in, and nobody on the pier said a word about the storm.",
    "A shop sells pencils at 3 for $1.20. Mara buys 14 pencils and pays with a $10 note. How much change does she get?",
    "def running_mean(values):\n    total = 0.0\n    for count, value in enumerate(values, start=1):\n",
    "1, 1, 2, 3, 5, 8, 13, 21, 34, 55,",
    "Compound interest differs from simple interest because",
    "Der Zug nach Hamburg f\u00e4hrt um 17:45 Uhr von Gleis 3 ab; \u00e7a va? "
    "\u6771\u4eac \u041c\u043e\u0441\u043a\u0432\u0430",
)
"""continued as they are"""

QUESTIONS = (
    "What is 17 plus 25?",
    "A train travels 120 miles in 2 hours. What is its average speed?",
    "Should I pay off my credit card before I start to invest? Answer in two sentences.",
    "Name three things that are usually found in a kitchen.",
    "Rewrite politely:   send me\tthe report NOW!!\n\nIt is late.",
    "Why is the sky blue?",
)
"""asked as the user's turn of a chat, where the model has a chat template; else continued"""
