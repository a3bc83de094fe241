// Draw every section, in the order of the page. This script comes last, after what the others define.

head();
curves();
confusions();
groups();
utterances();
suspects();
settings();
document.getElementById("foot").append(el("p", {}, `asr_exp ${data.version}. ${data.legend}`));
