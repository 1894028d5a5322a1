// The settings of a request: what can be set, within which bounds, and the body that says it.

// `start` is what the page begins with; `api` what the server takes where a field is left out.
const FIELDS = [
  { name: "max_tokens", label: "Most tokens", min: 1, max: 512, step: 1, start: 128, api: 16 },
  { name: "n", label: "Samples", min: 1, max: 8, step: 1, start: 1, api: 1 },
  { name: "temperature", label: "Temperature", min: 0, max: 2, step: 0.05, start: 0.8, api: 1, hint: "0 always takes the likeliest" },
  { name: "top_k", label: "Top k", min: 0, max: 200, step: 1, start: 40, api: 0, hint: "0 is off" },
  { name: "top_p", label: "Top p", min: 0.05, max: 1, step: 0.01, start: 1, api: 1 },
  { name: "min_p", label: "Min p", min: 0, max: 0.5, step: 0.01, start: 0, api: 0 },
  { name: "typical_p", label: "Typical p", min: 0.05, max: 1, step: 0.01, start: 1, api: 1 },
  { name: "repetition_penalty", label: "Repetition penalty", min: 0.5, max: 2, step: 0.01, start: 1, api: 1 },
  { name: "presence_penalty", label: "Presence penalty", min: -2, max: 2, step: 0.05, start: 0, api: 0 },
  { name: "frequency_penalty", label: "Frequency penalty", min: -2, max: 2, step: 0.05, start: 0, api: 0 },
];
const MAX_SEED = 2 ** 53 - 1;

export class Controls {
  constructor(onChange) {
    this.box = document.getElementById("controls");
    this.seed = document.getElementById("seed");
    this.stops = document.getElementById("stops");
    this.inputs = new Map();
    const penalties = document.getElementById("penalties");
    for (const field of FIELDS) {
      (field.name.endsWith("_penalty") ? penalties : this.box).append(this.row(field));
    }
    document.getElementById("settings").addEventListener("input", onChange);
    document.getElementById("reset").addEventListener("click", () => {
      this.reset();
      onChange();
    });
    this.reset();
  }

  row(field) {
    const row = document.createElement("div");
    row.className = "control";
    row.id = `row-${field.name}`;
    const label = document.createElement("label");
    label.htmlFor = field.name;
    label.textContent = field.label;
    const number = input("number", field, { id: field.name });
    const slider = input("range", field, { ariaLabel: field.label, tabIndex: -1 });
    number.addEventListener("input", () => { slider.value = number.value; });
    slider.addEventListener("input", () => { number.value = slider.value; });
    row.append(label, number, slider);
    if (field.hint) number.title = field.hint;
    this.inputs.set(field.name, { field, number, slider, row });
    return row;
  }

  reset() {
    for (const { field, number, slider } of this.inputs.values()) {
      number.value = slider.value = field.start;
    }
    this.seed.value = this.stops.value = "";
  }

  /** Show what this server takes only, and lengths that its model has. */
  fit(known, contextLen) {
    for (const [name, { row }] of this.inputs) row.hidden = !known.includes(name);
    const { number, slider } = this.inputs.get("max_tokens");
    number.max = slider.max = Math.min(contextLen, 1024);
    slider.value = number.value;
  }

  value(name) {
    const { field, number } = this.inputs.get(name);
    return number.value === "" || !number.validity.valid ? field.start : Number(number.value);
  }

  /** The first setting that cannot be sent, in words; null where all can. */
  problem() {
    for (const { field, number, row } of this.inputs.values()) {
      if (!row.hidden && !number.validity.valid) {
        return `${field.label} must be from ${number.min} to ${number.max} in steps of ${field.step}.`;
      }
    }
    const seed = this.seed.value.trim();
    if (seed && !(/^\d+$/.test(seed) && Number(seed) <= MAX_SEED)) {
      return `The seed must be a whole number from 0 to ${MAX_SEED}.`;
    }
    return null;
  }

  /** Fields of a request, without those that are as the server would take them anyway. */
  fields() {
    const told = {};
    for (const [name, { field, row }] of this.inputs) {
      if (!row.hidden && this.value(name) !== field.api) told[name] = this.value(name);
    }
    const seed = this.seed.value.trim();
    if (/^\d+$/.test(seed)) told.seed = Number(seed);
    const stops = this.stops.value.split("\n").filter(Boolean).map(unescaped);
    if (stops.length) told.stop = stops;
    return told;
  }
}

function input(type, field, more) {
  const made = document.createElement("input");
  const { min, max, step } = field;
  return Object.assign(made, { type, min, max, step, ...more });
}

function unescaped(text) {
  const known = { n: "\n", t: "\t", "\\": "\\" };
  return text.replace(/\\([nt\\])/g, (_, letter) => known[letter]);
}
