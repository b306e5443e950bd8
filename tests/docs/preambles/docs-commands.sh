# faq.csv, two recipes, and the runs that the page names
python - <<'ROWS'
import csv

with open("faq.csv", "w", newline="", encoding="utf-8") as file:
    rows = csv.writer(file)
    rows.writerow(["question", "answer"])
    rows.writerows([f"What is {n} plus {n * n}?", f"It is {n + n * n}, and not {n}."] for n in range(60))
ROWS
trained demo
cp -r runs/demo runs/a
command whet train recipes/demo.yaml output=runs/b optim.lr=2e-4 > trained-b.log
cp recipes/smollm2-135m/lora.yaml first.yaml
cp recipes/smollm2-135m/sft.yaml second.yaml
mkdir FOLDER
