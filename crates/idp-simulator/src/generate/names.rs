//! Words the generated people are made of.

pub const GIVEN: [&str; 40] = [
    "Ann", "Ben", "Carla", "David", "Elif", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Kira", "Liam",
    "Mara", "Noah", "Olga", "Pavel", "Quinn", "Rosa", "Samir", "Tara", "Umar", "Vera", "Wei", "Xenia",
    "Yusuf", "Zoe", "Aiko", "Boris", "Chloe", "Dario", "Emma", "Felix", "Greta", "Hana", "Ivan", "Julia",
    "Kofi", "Lena", "Marco", "Nadia",
];

pub const FAMILY: [&str; 40] = [
    "Adams", "Becker", "Costa", "Diaz", "Evans", "Fischer", "Garcia", "Hughes", "Ivanov", "Jensen", "Keller",
    "Lopez", "Meyer", "Novak", "Okafor", "Petrov", "Quist", "Rossi", "Schmidt", "Tanaka", "Ueda", "Varga",
    "Weber", "Xu", "Yilmaz", "Zhang", "Andersen", "Brown", "Clark", "Dubois", "Eriksen", "Ferrari", "Green",
    "Hansen", "Ito", "Jones", "Kowalski", "Lee", "Moreau", "Nguyen",
];

pub const DEPARTMENTS: [&str; 8] =
    ["Engineering", "Sales", "Finance", "Legal", "Marketing", "Operations", "People", "Support"];

pub const TITLES: [&str; 6] = ["Analyst", "Engineer", "Manager", "Director", "Specialist", "Assistant"];

pub const GUEST_DOMAINS: [&str; 3] = ["partner.example", "supplier.example", "agency.example"];

pub const PRIVATE_DOMAINS: [&str; 3] = ["mail.example", "inbox.example", "post.example"];
