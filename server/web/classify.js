// The tab of the task heads: the parts of an input as the form of the task has them, and bars.

import { post } from "./api.js";
import { percent } from "./sample.js";

const PARTS = {
  classification: [["text", "Text"]],
  entailment: [["premise", "Premise"], ["hypothesis", "Hypothesis"]],
  similarity: [["text_a", "First text"], ["text_b", "Second text"]],
  multiple_choice: [["context", "Context"]],
};
const ABOUT = {
  classification: "Which label a text has.",
  entailment: "What a premise says of a hypothesis.",
  similarity: "How close two texts are; their order does not matter.",
  multiple_choice: "Which choice goes on from the context.",
};

export class Classify {
  constructor(onError) {
    this.select = document.getElementById("task");
    this.parts = document.getElementById("parts");
    this.verdict = document.getElementById("verdict");
    this.button = document.getElementById("classify-run");
    this.onError = onError;
    this.tasks = [];
    this.select.addEventListener("change", () => this.showTask());
    this.button.addEventListener("click", () => this.run());
    this.parts.addEventListener("submit", (event) => event.preventDefault());
  }

  /** The models of /v1/models that have a task. */
  setTasks(tasks) {
    this.tasks = tasks;
    this.select.replaceChildren(...tasks.map((task) => new Option(task.id, task.id)));
    this.button.disabled = this.select.disabled = tasks.length === 0;
    if (tasks.length) this.showTask();
    else document.getElementById("task-about").textContent = "This server has none: serve --task NAME=DIR adds one.";
  }

  get task() {
    return this.tasks[this.select.selectedIndex];
  }

  showTask() {
    const { form } = this.task.task;
    document.getElementById("task-about").textContent = ABOUT[form];
    this.parts.replaceChildren(...PARTS[form].map(([name, label]) => field(name, label, 3)));
    if (form === "multiple_choice") {
      const more = document.createElement("button");
      more.type = "button";
      more.textContent = "One more choice";
      more.addEventListener("click", () => more.before(this.choice()));
      this.parts.append(more);
      more.before(this.choice());
      more.before(this.choice());
    }
    this.verdict.replaceChildren(hint("The answer stands here."));
  }

  choice() {
    const number = this.parts.querySelectorAll('[name="choices"]').length;
    return field("choices", `Choice ${number}`, 1);
  }

  input() {
    const told = {};
    for (const area of this.parts.querySelectorAll("textarea")) {
      if (area.name === "choices") (told.choices ||= []).push(area.value);
      else told[area.name] = area.value;
    }
    return told;
  }

  async run() {
    if (this.button.disabled) return;
    this.button.disabled = true;
    const began = performance.now();
    const task = this.task;
    const input = this.input();
    try {
      const answer = await post("v1/classify", { model: task.id, input });
      this.show(answer.data[0], task.task, input, performance.now() - began);
    } catch (error) {
      this.onError(error, () => this.run());
    } finally {
      this.button.disabled = false;
    }
  }

  show(found, config, input, tookMs) {
    const named = (label) => (input.choices ? input.choices[Number(label)] : label);
    const title = document.createElement("h2");
    title.textContent = found.label === null ? found.score.toFixed(3) : named(found.label);
    const bars = document.createElement("ul");
    bars.className = "bars";
    const shares = found.probabilities
      ? Object.entries(found.probabilities).map(([label, part]) => [named(label), part, percent(Math.log(part))])
      : [["score", share(found.score, config.score_range), found.score.toFixed(3)]];
    bars.append(...shares.map(([label, part, text]) => bar(label, part, text)));
    this.verdict.replaceChildren(title, bars, hint(`${Math.round(tookMs)} ms`));
  }
}

function share(score, range) {
  const [low, high] = range || [0, 1];
  return Math.max(0, Math.min(1, (score - low) / (high - low)));
}

function bar(label, part, text) {
  const item = document.createElement("li");
  const meter = document.createElement("span");
  meter.className = "meter";
  meter.style.setProperty("--share", part.toFixed(4));
  const name = document.createElement("span");
  name.textContent = label;
  const value = document.createElement("span");
  value.textContent = text;
  item.append(name, value, meter);
  return item;
}

function field(name, label, rows) {
  const box = document.createElement("label");
  box.className = "field";
  const area = Object.assign(document.createElement("textarea"), { name, rows, spellcheck: false });
  box.append(label, area);
  return box;
}

function hint(text) {
  const made = document.createElement("p");
  made.className = "hint";
  made.textContent = text;
  return made;
}
